//! A seeded, bounded round of the fuzz target.

#[test]
fn random_drivers_do_no_harm() {
    bulkhead_device::fuzz::seeded_rounds(0x2114_0a00_155d, 500, 1500, bulkhead_legacy_nic::fuzz::fuzz);
}
