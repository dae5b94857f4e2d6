//! A seeded, bounded fuzz round.

#[test]
fn seeded_round() {
    bulkhead_device::fuzz::seeded_rounds(0x8042, 3_000, 400, bulkhead_ps2::fuzz::fuzz);
}
