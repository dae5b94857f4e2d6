//! A seeded, bounded round of the fuzz target.

#[test]
fn random_accesses_do_no_harm() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..300 {
        let data: Vec<u8> = (0..600)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        bulkhead_fw_cfg::fuzz::fuzz(&data);
    }
}
