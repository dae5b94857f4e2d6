//! A seeded, bounded fuzz round.

#[test]
fn seeded_round() {
    bulkhead_device::fuzz::seeded_rounds(0xba110, 1_000, 300, bulkhead_balloon::fuzz::fuzz);
}
