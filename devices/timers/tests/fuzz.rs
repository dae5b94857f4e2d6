//! Seeded, bounded fuzz rounds.

#[test]
fn pit_round() {
    bulkhead_device::fuzz::seeded_rounds(0x8254, 2_000, 400, bulkhead_timers::fuzz::pit);
}

#[test]
fn hpet_round() {
    bulkhead_device::fuzz::seeded_rounds(0x4e70, 2_000, 400, bulkhead_timers::fuzz::hpet);
}
