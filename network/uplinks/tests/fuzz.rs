//! A bounded round of the fuzz target.

use bulkhead_uplinks::fuzz::fuzz;

#[test]
fn any_header_is_read_or_refused() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..200_000usize {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let mut data = state.to_ne_bytes().to_vec();
        data[0] &= 3;
        data[1] %= 7;
        data.extend([(state >> 20) as u8 % 32, 0]);
        data.resize(10 + round % 100, 0);
        fuzz(&data);
    }
}
