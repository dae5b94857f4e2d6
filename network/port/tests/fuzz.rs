//! A bounded round of the fuzz target.

use bulkhead_port::fuzz::fuzz;

#[test]
fn a_hostile_side_breaks_only_its_own_port() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..3000 {
        let mut data = Vec::new();
        for _ in 0..random() % 40 {
            let mut chunk = random().to_le_bytes();
            // Small and huge values reach further than random ones.
            match random() % 4 {
                0 => chunk[2..6].copy_from_slice(&((random() as u32 % 4096) * 64).to_le_bytes()),
                1 => chunk[2..6].copy_from_slice(&u32::MAX.to_le_bytes()),
                2 => chunk[2..6].copy_from_slice(&(random() as u32 % 70_000).to_le_bytes()),
                _ => {}
            }
            data.extend(chunk);
        }
        fuzz(&data);
    }
    let messages = [
        r#"{"version":1,"ticket":"a","ring":1048576,"options":{"partial_checksum":true}}"#,
        r#"{"attached":{"version":1,"port":{"switch":"s","port":"p","mac":"00-15-5D-01-02-03","mtu":1500,"link_up":true}}}"#,
        r#"{"refused":{"message":"no"}}"#,
    ];
    for round in 0..3000 {
        let mut bytes = messages[round % 3].as_bytes().to_vec();
        for _ in 0..random() % 4 {
            let at = random() as usize % bytes.len();
            bytes[at] = b"{}[]\":,0123456789etrunfalse.-"[random() as usize % 29];
        }
        fuzz(&bytes);
    }
}
