//! Network frames: addresses, headers, offload metadata, checksums, segmentation, captures. Pure: no I/O.

mod mac;
mod metadata;

pub use mac::{MacAddress, ParseMacError};
pub use metadata::{Checksum, FrameMeta, MetaError, SegmentKind, Segmentation, VlanTag};

/// Bytes of an Ethernet header without a VLAN tag.
pub const ETHERNET_HEADER: usize = 14;
/// The longest frame that anything here carries: an Ethernet header, a VLAN tag in the frame, and the longest IP packet, which a
/// [`Segmentation`] cuts later.
pub const MAX_FRAME: usize = ETHERNET_HEADER + 4 + 65_535;
