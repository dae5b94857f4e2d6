//! A seeded, bounded round of the fuzz target.

#[test]
fn random_rings_do_no_harm() {
    let mut state = 0x3c6e_f372_fe94_f82bu64;
    for _ in 0..2000 {
        let data: Vec<u8> = (0..20 * 60)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        bulkhead_vmbus_channel::fuzz::fuzz(&data);
    }
}
