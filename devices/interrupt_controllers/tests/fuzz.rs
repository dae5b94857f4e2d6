//! A seeded, bounded fuzz round.

#[test]
fn seeded_round() {
    bulkhead_device::fuzz::seeded_rounds(0x8259_0001, 3_000, 400, bulkhead_interrupt_controllers::fuzz::fuzz);
}
