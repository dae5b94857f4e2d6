//! A seeded, bounded fuzz round.

#[test]
fn seeded_round() {
    bulkhead_device::fuzz::seeded_rounds(0x8086_1237, 2_000, 400, bulkhead_pci::fuzz::fuzz);
}
