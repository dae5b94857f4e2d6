//! A seeded, bounded round of the fuzz target.

#[test]
fn random_messages_and_packets_do_no_harm() {
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 32
    };
    for _ in 0..100_000 {
        let len = random() as usize % 256;
        let mut data: Vec<u8> = (0..len).map(|_| random() as u8).collect();
        // Often a type that exists, and packet lengths that nearly fit.
        if len >= 24 && random() % 4 != 0 {
            let kinds = [6, 7, 9, 11, 3, 5, 8, 14];
            data[..4].copy_from_slice(&[kinds[random() as usize % 8], 0, 2 + (random() % 12) as u8, 0]);
            data[4..8].copy_from_slice(&[(len / 8) as u8, 0, 1, 0]);
            data[16..24].copy_from_slice(&[0, 0, 0, 0, (random() % 4) as u8, 0, 0, 0]);
            data.truncate(len / 8 * 8);
        }
        bulkhead_vmbus_protocol::fuzz::fuzz(&data);
    }
}
