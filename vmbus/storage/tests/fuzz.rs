//! A seeded, bounded round of the fuzz target.

#[test]
fn random_drivers_do_no_harm() {
    let mut state = 0xbb67_ae85_84ca_a73bu64;
    for _ in 0..400 {
        let data: Vec<u8> = (0..40 * 100)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        bulkhead_vmbus_storage::fuzz::fuzz(&data);
    }
}
