//! A seeded, bounded fuzz round.

#[test]
fn seeded_round() {
    bulkhead_device::fuzz::seeded_rounds(0x14_6818, 2_000, 400, bulkhead_rtc::fuzz::fuzz);
}
