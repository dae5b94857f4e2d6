//! A seeded, bounded round of the fuzz target.

#[test]
fn random_commands_do_no_harm() {
    let mut state = 0x1234_5678_9abc_def1u64;
    for _ in 0..3000 {
        let data: Vec<u8> = (0..2 + 17 * 20)
            .map(|index| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Half of the bytes zero: then addresses are often inside the disk.
                if index > 2 && state & 0x10 != 0 { 0 } else { (state >> 32) as u8 }
            })
            .collect();
        bulkhead_scsi_target::fuzz::fuzz(&data);
    }
}
