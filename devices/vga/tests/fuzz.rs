//! A seeded, bounded round of the fuzz target.

#[test]
fn random_drivers_do_no_harm() {
    let mut state = 0x0dd_ba11_cafe_f00du64;
    for _ in 0..60 {
        let data: Vec<u8> = (0..6 * 150)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        bulkhead_vga::fuzz::fuzz(&data);
    }
}
