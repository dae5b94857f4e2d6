//! A seeded, bounded fuzz round.

#[test]
fn seeded_round() {
    bulkhead_device::fuzz::seeded_rounds(0x16550, 2_000, 400, bulkhead_serial::fuzz::fuzz);
}
