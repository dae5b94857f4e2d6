//! A bounded round of the fuzz target, from greetings that work and from noise.

use bulkhead_disk::test_support::XorShift;

fn rounds() -> u32 {
    if std::env::var_os("BULKHEAD_LONG").is_some() { 2_000_000 } else { 20_000 }
}

/// What a client says that lists, selects contexts and goes.
fn greeting() -> Vec<u8> {
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    let mut option = |number: u32, data: &[u8]| {
        bytes.extend(b"IHAVEOPT");
        bytes.extend(number.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
    };
    option(8, &[]);
    option(3, &[]);
    option(10, b"\0\0\0\x01a\0\0\0\x01\0\0\0\x0fbase:allocation");
    option(6, b"\0\0\0\x01b\0\x02\0\x03\0\x01");
    option(7, b"\0\0\0\x01a\0\0");
    bytes
}

#[test]
fn hostile_clients_get_an_answer_or_are_cut_off() {
    let seed = 0x6e62_645f_7365_6564;
    eprintln!("seed {seed:#x}");
    let mut random = XorShift::new(seed);
    let plain = greeting();
    for round in 0..rounds() {
        let mut data: Vec<u8> = if round % 2 == 0 {
            plain.clone()
        } else {
            (0..random.below(300)).map(|_| random.next_u64() as u8).collect()
        };
        for _ in 0..random.below(4) {
            if !data.is_empty() {
                let at = random.below(data.len() as u64) as usize;
                data[at] = random.next_u64() as u8;
            }
        }
        // Pieces: a length byte before every run.
        let mut pieces = Vec::new();
        let len = random.below(64) as u8 + 1;
        for chunk in data.chunks(usize::from(len) + 1) {
            pieces.push(len);
            pieces.extend(chunk);
        }
        bulkhead_nbd::fuzz::fuzz(&pieces);
    }
}
