//! A seeded, bounded fuzz round.

#[test]
fn seeded_round() {
    bulkhead_device::fuzz::seeded_rounds(0x4000_0000, 1_500, 400, bulkhead_hyperv::fuzz::fuzz);
}
