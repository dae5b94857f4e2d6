//! A seeded, bounded round of the fuzz target.

#[test]
fn random_drivers_do_no_harm() {
    let mut state = 0x5eed_0f10_9919_0001u64;
    for _ in 0..1500 {
        let data: Vec<u8> = (0..6 * 200)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        bulkhead_floppy::fuzz::fuzz(&data);
    }
}
