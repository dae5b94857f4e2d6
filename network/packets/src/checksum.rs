//! The Internet checksum (RFC 1071), and completing a partial one.

use crate::{Checksum, FrameMeta};

/// The ones' complement sum of `bytes`, added to `sum` (itself such a sum; 0 to start), folded to 16 bits but not complemented.
pub fn internet_checksum(bytes: &[u8], sum: u32) -> u16 {
    // Any word size gives the same sum in native order (RFC 1071 §2); eight bytes at a time are fastest.
    let mut wide = u128::from(u64::from(sum.to_be() >> 16) + u64::from(sum.to_be() & 0xFFFF));
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        wide += u128::from(u64::from_ne_bytes(chunk.try_into().unwrap_or_default()));
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    wide += u128::from(u64::from_ne_bytes(last));
    while wide >> 16 != 0 {
        wide = (wide & 0xFFFF) + ((wide >> 16) & 0xFFFF_FFFF_FFFF_FFFF) + (wide >> 80);
    }
    u16::from_be_bytes((wide as u16).to_ne_bytes())
}

/// Completes a partial checksum in the whole frame; then the metadata say that it is good. Leaves other frames alone.
pub fn complete_checksum(frame: &mut [u8], meta: &mut FrameMeta) {
    let Checksum::Partial { start, offset } = meta.checksum else { return };
    meta.checksum = Checksum::Verified;
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    let Some(summed) = frame.get(start..) else { return };
    let sum = !internet_checksum(summed, 0);
    if let Some(place) = frame.get_mut(field..field + 2) {
        // UDP writes a sum of 0 as FFFFh, because 0 means none; the two are equal, so that TCP may as well.
        place.copy_from_slice(&(if sum == 0 { 0xFFFF } else { sum }).to_be_bytes());
    }
}
