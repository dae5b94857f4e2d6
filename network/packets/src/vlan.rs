//! Moving a VLAN tag between the frame and its metadata.

use crate::{Checksum, FrameMeta, VlanTag};

/// Adjusts what counts from the start of the frame when `by` bytes came in behind the addresses (or went, if negative).
fn shift(meta: &mut FrameMeta, by: i16) {
    if let Checksum::Partial { start, .. } = &mut meta.checksum {
        *start = start.saturating_add_signed(by);
    }
    if let Some(segmentation) = &mut meta.segmentation
        && segmentation.header_len != 0
    {
        segmentation.header_len = segmentation.header_len.saturating_add_signed(by);
    }
}

/// The metadata of the frame without the tag that it holds, which the caller leaves out: bytes 12 to 15.
pub fn remove_tag(meta: &mut FrameMeta, tag: VlanTag) {
    shift(meta, -4);
    meta.vlan = Some(tag);
}

/// The four bytes to insert at byte 12 of the frame, if its tag is in the metadata; they then fit the new frame.
pub fn insert_tag(meta: &mut FrameMeta) -> Option<[u8; 4]> {
    let VlanTag(tag) = meta.vlan.take()?;
    shift(meta, 4);
    let [high, low] = tag.to_be_bytes();
    Some([0x81, 0x00, high, low])
}
