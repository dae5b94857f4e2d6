//! A seeded, bounded round of the fuzz target.

#[test]
fn hostile_guests_do_no_harm() {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let len = next() as usize % 2000;
        let data: Vec<u8> = (0..len).map(|_| (next() >> 32) as u8).collect();
        bulkhead_nat::fuzz::fuzz(&data);
    }
}
