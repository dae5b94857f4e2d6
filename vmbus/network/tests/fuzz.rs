//! A seeded, bounded round of the fuzz target.

#[test]
fn hostile_drivers_break_only_their_channel() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..400 {
        let mut data = Vec::new();
        // A session that works, so that what follows gets far.
        if random() % 4 != 0 {
            for words in [&[1, 0x5_0000, 0x5_0000][..], &[101, 1, 0xCAFE], &[104, 2], &[107, 1, 0, 40]] {
                data.extend([0; 8]);
                (0..10).for_each(|at| data.extend(words.get(at).copied().unwrap_or(0_u32).to_le_bytes()));
            }
        }
        for _ in 0..random() % 40 {
            let mut step = [0; 48];
            step.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&random().to_le_bytes()));
            let kinds = [1, 2, 100, 101, 103, 104, 106, 107, 108, 125, 133];
            if random() % 4 != 0 {
                step[8..12].copy_from_slice(&(kinds[random() as usize % kinds.len()] as u32).to_le_bytes());
            }
            for at in (12..48).step_by(4) {
                if random() % 2 == 0 {
                    step[at..at + 4].copy_from_slice(&(random() as u32 % 128).to_le_bytes());
                }
            }
            data.extend(step);
        }
        bulkhead_network_vsp::fuzz::fuzz(&data);
    }
}
