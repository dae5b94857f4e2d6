//! Which pages of RAM can be anything but zero, without touching them: reading a hole of a memfd would allocate it.

use crate::bitmap::page_ranges;
use crate::region::{Backing, Region};
use crate::{MemoryError, PAGE_SIZE};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

/// Page numbers within the region, ascending and merged, outside of which all is zero.
pub(crate) fn candidate_pages(region: &Region) -> Result<Vec<Range<u64>>, MemoryError> {
    let all = || union(&[], std::slice::from_ref(&(0..region.len / PAGE_SIZE)));
    match &region.backing {
        Backing::Shared(memfd) => data_in_file(memfd.as_fd(), region.file_offset, region.len),
        Backing::CopyOnWrite(file) => {
            let in_file = data_in_file(file.as_fd(), region.file_offset, region.len)?;
            // Without /proc (in a sandbox) nothing tells which holes of the file were written over: look at all.
            Ok(private_pages(region).map_or_else(all, |written| union(&in_file, &written)))
        }
    }
}

/// The parts of `offset..offset + len` of a file that are not holes, as page numbers from `offset`.
fn data_in_file(file: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Vec<Range<u64>>, MemoryError> {
    let end = offset + len;
    let seek = |to: SeekFrom| match rustix::fs::seek(file, to) {
        Ok(found) => Ok(found.min(end)),
        // Nothing but a hole from here on.
        Err(Errno::NXIO) => Ok(end),
        Err(error) => Err(error),
    };
    let mut ranges = Vec::new();
    let mut at = offset;
    while at < end {
        let start = match seek(SeekFrom::Data(at)) {
            Ok(start) => start,
            // A file system that does not know holes: all of it is data.
            Err(Errno::INVAL) => at,
            Err(error) => return Err(MemoryError::system("look for holes in RAM")(error)),
        };
        if start >= end {
            break;
        }
        let stop = match seek(SeekFrom::Hole(start)) {
            Ok(stop) if stop > start => stop,
            _ => end,
        };
        ranges.push((start - offset) / PAGE_SIZE..(stop - offset).div_ceil(PAGE_SIZE));
        at = stop;
    }
    Ok(union(&ranges, &[]))
}

/// Pages of a private mapping that were written since it was mapped, from /proc/self/pagemap (format: the kernel's
/// Documentation/admin-guide/mm/pagemap.rst): present or swapped, and not the file's own page.
fn private_pages(region: &Region) -> Option<Vec<Range<u64>>> {
    const PRESENT_OR_SWAPPED: u64 = 0b11 << 62;
    const OF_FILE: u64 = 1 << 61;
    const ENTRIES: u64 = 8192;
    let pagemap = File::open("/proc/self/pagemap").ok()?;
    let first = region.host().as_ptr() as u64 / PAGE_SIZE;
    let pages = region.len / PAGE_SIZE;
    let mut words = vec![0u64; pages.div_ceil(64) as usize];
    let mut buffer = vec![0; (ENTRIES * 8) as usize];
    for start in (0..pages).step_by(ENTRIES as usize) {
        let count = ENTRIES.min(pages - start);
        let bytes = &mut buffer[..(count * 8) as usize];
        pagemap.read_exact_at(bytes, (first + start) * 8).ok()?;
        for (page, entry) in (start..).zip(bytes.as_chunks::<8>().0) {
            let entry = u64::from_ne_bytes(*entry);
            if entry & PRESENT_OR_SWAPPED != 0 && entry & OF_FILE == 0 {
                words[(page / 64) as usize] |= 1 << (page % 64);
            }
        }
    }
    Some(page_ranges(words.into_iter()))
}

/// The ranges of both lists, ascending, overlapping and touching ones merged.
fn union(a: &[Range<u64>], b: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut all: Vec<_> = a.iter().chain(b).cloned().collect();
    all.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(all.len());
    for range in all {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn union_merges_overlaps_and_neighbours() {
        assert_eq!(union(&[0..2, 5..6, 9..12], &[2..3, 6..7, 10..11]), [0..3, 5..7, 9..12]);
        assert_eq!(union(&[], &[]), []);
    }
}
