//! Sector bitmaps of an open differencing image.

use super::{Inner, format_error};
use crate::format::{FormatError, SECTOR, sector_bitmap};
use bulkhead_disk::Result;
use std::ops::Range;

/// Bits in one cached sector of a bitmap.
const BITS: u64 = SECTOR * 8;

impl Inner {
    /// Which sector bits of the chunk belong to bytes `range` of `block` (byte positions inside the block).
    fn bits_of(&self, block: u64, range: &Range<u64>) -> Range<u64> {
        let geometry = self.geometry();
        let first = (block % geometry.chunk_ratio()) * geometry.block_size();
        (first + range.start) / geometry.logical_sector()..(first + range.end) / geometry.logical_sector()
    }

    async fn bitmap_of(&self, block: u64) -> Result<u64> {
        let chunk = block / self.geometry().chunk_ratio();
        self.bitmap_block(chunk).await?.ok_or_else(|| {
            let problem = format!("block {block} is partially present, but its chunk {chunk} has no sector bitmap");
            format_error("read the sector bitmap")(FormatError::Damaged { structure: "BAT entry", problem })
        })
    }

    /// Cuts bytes `range` of a partially present block into runs: (bytes, here or in the parent).
    pub(crate) async fn bitmap_runs(&self, block: u64, range: Range<u64>) -> Result<Vec<(u64, bool)>> {
        let bitmap = self.bitmap_of(block).await?;
        let sector_size = self.geometry().logical_sector();
        let bits = self.bits_of(block, &range);
        let mut runs: Vec<(u64, bool)> = Vec::new();
        let mut at = bits.start;
        while at < bits.end {
            let sector = bitmap + at / BITS * SECTOR;
            self.load_sector(sector).await?;
            let mut state = self.state.borrow_mut();
            let Some(data) = state.cache.get(sector) else { continue };
            let first = at - at % BITS;
            let end = bits.end.min(first + BITS);
            while at < end {
                let here = sector_bitmap::get(data, (at - first) as usize);
                let count = sector_bitmap::run_length(data, (at - first) as usize..(end - first) as usize, here) as u64;
                match runs.last_mut() {
                    Some((length, same)) if *same == here => *length += count * sector_size,
                    _ => runs.push((count * sector_size, here)),
                }
                at += count;
            }
        }
        Ok(runs)
    }

    /// Marks bytes `range` of `block` as being here (`value`), or as being the parent's.
    pub(crate) async fn set_bits(&self, block: u64, range: Range<u64>, value: bool) -> Result<()> {
        let bitmap = self.bitmap_of(block).await?;
        let bits = self.bits_of(block, &range);
        let mut at = bits.start;
        while at < bits.end {
            let first = at - at % BITS;
            let end = bits.end.min(first + BITS);
            let inside = (at - first) as usize..(end - first) as usize;
            let sector = bitmap + at / BITS * SECTOR;
            self.load_sector(sector).await?;
            let done = self
                .state
                .borrow_mut()
                .cache
                .get(sector)
                .is_some_and(|data| sector_bitmap::run_length(data, inside.clone(), value) == inside.len());
            if !done {
                // Set bits point to payload, cleared ones to nothing.
                self.change_sector(sector, value, |data| sector_bitmap::fill(data, inside, value)).await?;
            }
            at = end;
        }
        Ok(())
    }
}
