//! A seeded, bounded fuzz round.

#[test]
fn seeded_round() {
    bulkhead_device::fuzz::seeded_rounds(0x50c7, 1_000, 300, bulkhead_socket::fuzz::fuzz);
}
