//! A seeded, bounded round of the fuzz target.

#[test]
fn hostile_kernels_are_started_or_refused() {
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u32
    };
    for round in 0..20_000 {
        // A few changes leave the header valid, many do not.
        let len = 1 + (random() % if round % 2 == 0 { 24 } else { 400 }) as usize;
        let data: Vec<u8> = (0..len).map(|_| random() as u8).collect();
        bulkhead_machine::fuzz::fuzz(&data);
    }
}
