//! A seeded, bounded round of the fuzz target.

#[test]
fn random_guests_do_no_harm() {
    let mut state = 0x6a09_e667_f3bc_c908u64;
    for _ in 0..400 {
        let data: Vec<u8> = (0..24 * 100)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        bulkhead_vmbus::fuzz::fuzz(&data);
    }
}
