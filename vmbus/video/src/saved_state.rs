//! Saved form of synthetic video. The picture itself is in memory.

use minicbor::{Decode, Encode};

/// Name of the form.
pub(crate) const KIND: &str = "synthetic-video";
/// Version of the form.
pub(crate) const VERSION: u32 = 1;

/// The device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct SavedVideo {
    /// The guest's driver has introduced itself.
    #[n(0)]
    pub ready: bool,
    /// Where the frame buffer is.
    #[n(1)]
    pub gpa: Option<u64>,
    /// The picture is on; offset in video memory, width, height, pitch.
    #[n(2)]
    pub shown: (bool, u32, u32, u32, u32),
    /// Bits of a pixel.
    #[n(3)]
    pub depth: u8,
    /// Messages that wait for room.
    #[n(4)]
    pub unsent: Vec<minicbor::bytes::ByteVec>,
}
