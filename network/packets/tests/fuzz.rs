//! A bounded round of the fuzz target.

use bulkhead_packets::fuzz::fuzz;

#[test]
fn any_frame_is_parsed_cut_and_completed_without_a_panic() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let seeds: [&[u8]; 4] = [
        &[
            1, 20, 54, 34, 16, 0, 0, 0, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 90, 0, 1, 64, 0, 64, 6,
            0, 0, 10,
        ],
        &[2, 9, 74, 54, 16, 0, 0, 0, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xDD, 0x60, 0, 0, 0, 0, 40, 6, 64],
        &[
            3, 9, 42, 34, 6, 0, 0, 0, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0, 0, 5, 8, 0, 0x46, 0, 0, 90, 0, 1, 0,
            0, 64, 17,
        ],
        &[0, 0, 0, 14, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
    ];
    for round in 0..40_000 {
        let mut data = seeds[round % seeds.len()].to_vec();
        data.extend((0..random() % 120).map(|_| random() as u8));
        for _ in 0..random() % 6 {
            let at = random() as usize % data.len();
            data[at] = [0, 1, 0xFF, random() as u8][random() as usize % 4];
        }
        data.truncate(random() as usize % (data.len() * 2));
        fuzz(&data);
    }
}
