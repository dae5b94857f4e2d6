//! Fuzz target: the header that comes in front of frames from the kernel.
#![doc(hidden)]

use crate::virtio::{HEADER, decode, encode};

/// Reads `data` as a header and a frame behind it.
pub fn fuzz(data: &[u8]) {
    let Some((header, frame)) = data.split_first_chunk::<HEADER>() else { return };
    if let Some(meta) = decode(header, frame.len()) {
        assert_eq!(decode(&encode(&meta), frame.len()), Some(meta), "what is written is read back");
    }
}
