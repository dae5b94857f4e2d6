//! Fuzz target: channel messages and packets from anybody.

use crate::{GuestMessage, parse_packet};

/// Reads `data` as a message and as a packet.
///
/// # Panics
/// When a packet's ranges are longer than what the packet can name.
pub fn fuzz(data: &[u8]) {
    if let Ok(GuestMessage::GpadlHeader(header)) = GuestMessage::parse(data) {
        assert!(header.ranges.len() + 20 == data.len());
    }
    let mut ranges = Vec::new();
    if let Ok(parsed) = parse_packet(data, &mut ranges) {
        assert!(parsed.payload <= data.len());
        let total: u64 = ranges.iter().map(|range| range.len).sum();
        assert!(total <= data.len() as u64 / 8 * 4096);
    }
}
