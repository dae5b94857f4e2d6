//! A bounded, seeded round of the fuzz target.

use bulkhead_native::fuzz::fuzz;

#[test]
fn random_bytes_make_stubs_or_errors() {
    let mut state = 0x5eed_0000_0001_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..400 {
        let mut data: Vec<u8> = (0..1000).map(|_| next() as u8).collect();
        // More of what is lowered: SSE, VEX and x87 opcodes.
        for _ in 0..200 {
            let at = next() as usize % data.len();
            data[at] = [0x0f, 0x66, 0xf2, 0xf3, 0xc4, 0xc5, 0xd8, 0xdb, 0x38, 0x3a][next() as usize % 10];
        }
        fuzz(&data);
    }
}
