//! A bounded round of the fuzz target.

use bulkhead_switch_core::fuzz::fuzz;

#[test]
fn any_frames_pass_any_policies_without_a_panic() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..2000 {
        let mut data = Vec::new();
        for _ in 0..random() % 20 {
            let len = (random() % 100) as u8;
            data.extend([random() as u8, len, random() as u8]);
            let mut frame: Vec<u8> = (0..len).map(|_| random() as u8).collect();
            let mac = |last: u64| [0, 0x15, 0x5D, 0, 0, (last % 5) as u8];
            if len >= 24 {
                frame[..6].copy_from_slice(if random() % 3 == 0 { &[0xFF; 6] } else { &[0, 0x15, 0x5D, 0, 0, 1] });
                frame[6..12].copy_from_slice(&mac(random()));
                let kinds: [[u8; 2]; 4] = [[8, 0], [8, 6], [0x86, 0xDD], [0x81, 0]];
                frame[12..14].copy_from_slice(&kinds[random() as usize % 4]);
                frame[14] = if frame[12] == 8 { 0x45 } else { 0x60 };
                frame[23] = [1, 6, 17, 58][random() as usize % 4];
            }
            data.extend(frame);
        }
        fuzz(&data);
    }
}
