//! [`FrameMeta`]: what travels beside a frame on every hop, so that checksums and segmentation are done once, as late as possible.

use crate::{ETHERNET_HEADER, MAX_FRAME};

/// The metadata of a frame: what virtio calls the net header, and the VLAN tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameMeta {
    /// What is known and what is left to do about the checksum of the transport header.
    pub checksum: Checksum,
    /// The frame stands for several: cut it before it leaves for somebody who cannot.
    pub segmentation: Option<Segmentation>,
    /// The 802.1Q tag, when it is not in the frame itself.
    pub vlan: Option<VlanTag>,
    /// Hash of the flow; 0 if nobody computed one.
    pub hash: u32,
}

/// The checksum of the transport header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// It is in the frame; nobody has looked at it.
    #[default]
    InFrame,
    /// Only that of the pseudo header is in the frame. Sum from `start` to the end, store it at `start + offset`.
    Partial {
        /// First byte summed, from the start of the frame.
        start: u16,
        /// Where the checksum field is, from `start`.
        offset: u16,
    },
    /// It is in the frame or need not be, and the data are as they were sent: no need to look.
    Verified,
}

/// A frame with more payload than the wire takes, cut by whoever needs it cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// Which headers each piece gets.
    pub kind: SegmentKind,
    /// Payload bytes of each piece but the last; not 0.
    pub size: u16,
    /// Bytes from the start of the frame to the payload; a hint, 0 if unknown.
    pub header_len: u16,
}

/// Protocols that can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4 (large send offload).
    TcpIpv4,
    /// TCP over IPv6.
    TcpIpv6,
    /// UDP over either, in datagrams of `size`.
    Udp,
}

/// The tag control information of 802.1Q.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VlanTag(pub u16);

impl VlanTag {
    /// A tag of a VLAN with priority 0.
    #[inline]
    pub fn new(id: u16) -> VlanTag {
        VlanTag(id & 0xFFF)
    }

    /// The VLAN: 1 to 4094; 0 means that only the priority counts.
    #[inline]
    pub fn id(self) -> u16 {
        self.0 & 0xFFF
    }

    /// Priority, 0 to 7.
    #[inline]
    pub fn priority(self) -> u8 {
        (self.0 >> 13) as u8
    }

    /// The same with another VLAN.
    #[inline]
    pub fn with_id(self, id: u16) -> VlanTag {
        VlanTag(self.0 & 0xF000 | id & 0xFFF)
    }
}

/// Metadata that cannot belong to its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// Shorter than an Ethernet header, or longer than [`MAX_FRAME`].
    #[error("a frame of {len} bytes: it must have {ETHERNET_HEADER} to {MAX_FRAME}")]
    Length {
        /// Its length.
        len: usize,
    },
    /// The checksum field is not in the frame.
    #[error("a checksum at {start} + {offset} of a frame of {len} bytes")]
    Checksum {
        /// First byte summed.
        start: u16,
        /// The field, from there.
        offset: u16,
        /// Bytes of the frame.
        len: usize,
    },
    /// Cut into pieces of nothing, without a checksum to complete, or with more headers than there are bytes.
    #[error("segments of {size} bytes after {header_len} bytes of headers, in a frame of {len} bytes")]
    Segmentation {
        /// Payload of each.
        size: u16,
        /// Bytes of headers.
        header_len: u16,
        /// Bytes of the frame.
        len: usize,
    },
}

impl FrameMeta {
    /// Whether it can belong to a frame of `len` bytes.
    ///
    /// # Errors
    /// [`MetaError`].
    #[inline]
    pub fn check(&self, len: usize) -> Result<(), MetaError> {
        if !(ETHERNET_HEADER..=MAX_FRAME).contains(&len) {
            return Err(MetaError::Length { len });
        }
        if let Checksum::Partial { start, offset } = self.checksum
            && usize::from(start) + usize::from(offset) + 2 > len
        {
            return Err(MetaError::Checksum { start, offset, len });
        }
        if let Some(Segmentation { size, header_len, .. }) = self.segmentation {
            let partial = matches!(self.checksum, Checksum::Partial { .. });
            if size == 0 || usize::from(header_len) > len || !partial {
                return Err(MetaError::Segmentation { size, header_len, len });
            }
        }
        Ok(())
    }
}
