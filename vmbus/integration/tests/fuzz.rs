//! A seeded, bounded fuzz round.

#[test]
fn seeded_round() {
    bulkhead_device::fuzz::seeded_rounds(0x1c5, 3_000, 400, bulkhead_integration::fuzz::fuzz);
}
