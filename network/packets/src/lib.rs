//! Network frames: addresses, headers, offload metadata, checksums, segmentation, captures. Pure: no I/O.

mod checksum;
pub mod fuzz;
mod headers;
mod mac;
mod metadata;
mod pcapng;
mod segment;
mod vlan;

pub use checksum::{complete_checksum, internet_checksum};
pub use headers::{Arp, Ethernet, Ip, Network, Transport};
pub use mac::{MacAddress, ParseMacError};
pub use metadata::{Checksum, FrameMeta, MetaError, SegmentKind, Segmentation, VlanTag};
pub use pcapng::{Direction, PcapngWriter};
pub use segment::{SegmentError, Segments, segments};
pub use vlan::{insert_tag, remove_tag};

/// Bytes of an Ethernet header without a VLAN tag.
pub const ETHERNET_HEADER: usize = 14;
/// The longest frame that anything here carries: an Ethernet header, a VLAN tag in the frame, and the longest IP packet, which a
/// [`Segmentation`] cuts later.
pub const MAX_FRAME: usize = ETHERNET_HEADER + 4 + 65_535;
