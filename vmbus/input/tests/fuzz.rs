//! A seeded, bounded fuzz round.

#[test]
fn seeded_round() {
    bulkhead_device::fuzz::seeded_rounds(0x4b1d, 1_000, 300, bulkhead_input::fuzz::fuzz);
}
