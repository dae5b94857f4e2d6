//! The read planner.

use super::Inner;
use crate::format::bat::BlockState;
use bulkhead_disk::{Extent, Place, Result};
use std::ops::Range;

/// Collects extents; touching ones with the same meaning become one.
#[derive(Default)]
struct Extents(Vec<Extent>);

impl Extents {
    fn push(&mut self, len: u64, place: Place) {
        if len == 0 {
            return;
        }
        if let Some(last) = self.0.last_mut() {
            let continues = match (last.place, place) {
                (Place::File(offset), Place::File(next)) => offset + last.len == next,
                (first, second) => first == second,
            };
            if continues {
                last.len += len;
                return;
            }
        }
        self.0.push(Extent { len, place });
    }

    /// Payload in the file; what the file does not reach (the last block of old qemu images) is zeros.
    fn push_file(&mut self, offset: u64, len: u64, file_len: u64) {
        let inside = file_len.saturating_sub(offset).min(len);
        self.push(inside, Place::File(offset));
        self.push(len - inside, Place::Zero);
    }
}

impl Inner {
    /// See [`bulkhead_disk::Layer::resolve`].
    pub(crate) async fn resolve(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        let geometry = self.geometry();
        let mut extents = Extents::default();
        let size = geometry.block_size();
        let mut at = range.start;
        while at < range.end {
            let (block, start) = (at / size, at % size);
            let stored = self.next_stored(block).await?;
            if stored > block {
                let end = (stored * size).min(range.end);
                extents.push(end - at, Place::Absent);
                at = end;
                continue;
            }
            let piece = start..size.min(start + (range.end - at));
            at += piece.end - piece.start;
            let entry = self.block(block).await?;
            let len = piece.end - piece.start;
            match entry.state {
                BlockState::NotPresent => extents.push(len, Place::Absent),
                BlockState::Undefined | BlockState::Zero | BlockState::Unmapped => extents.push(len, Place::Zero),
                BlockState::FullyPresent => extents.push_file(entry.offset + piece.start, len, self.file.len()),
                BlockState::PartiallyPresent => {
                    let mut at = entry.offset + piece.start;
                    for (len, here) in self.bitmap_runs(block, piece).await? {
                        if here {
                            extents.push_file(at, len, self.file.len());
                        } else {
                            extents.push(len, Place::Absent);
                        }
                        at += len;
                    }
                }
            }
        }
        Ok(extents.0)
    }

    /// As `resolve`; holes of the host file inside of blocks are told as zeros.
    pub(crate) async fn map(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        let mut extents = Extents::default();
        for extent in self.resolve(range).await? {
            let Place::File(offset) = extent.place else {
                extents.push(extent.len, extent.place);
                continue;
            };
            let end = offset + extent.len;
            let mut at = offset;
            while at < end {
                let data = self.file.data_after(at).await?.unwrap_or(end..end);
                let (start, stop) = (data.start.clamp(at, end), data.end.clamp(at, end));
                extents.push(start - at, Place::Zero);
                extents.push(stop - start, Place::File(start));
                at = if stop > start { stop } else { end };
            }
        }
        Ok(extents.0)
    }
}
