//! Space in the file, in units of 1 MiB: who owns what, overlap detection, allocation. No I/O.

use crate::format::{FormatError, MIB};
use std::collections::BTreeMap;
use std::ops::Range;

const UNITS_PER_PAGE: u64 = 4096;
const WORDS: usize = (UNITS_PER_PAGE / 64) as usize;

/// A place for a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// File offset.
    pub offset: u64,
    /// Certainly zeros: behind the end that the file had when it was opened, and never given out before.
    pub fresh: bool,
}

/// Owned units, learned piece by piece as BAT sectors are read.
#[derive(Debug, Default)]
pub struct SpaceMap {
    pages: BTreeMap<u64, Box<[u64; WORDS]>>,
    /// Ranges inside the file that nobody owns; known only after the whole BAT was read.
    holes: BTreeMap<u64, u64>,
    /// Where untouched space begins.
    frontier: u64,
    complete: bool,
}

impl SpaceMap {
    /// A map of a file of `file_len` bytes.
    pub fn new(file_len: u64) -> Self {
        Self { frontier: file_len.next_multiple_of(MIB), ..Self::default() }
    }

    /// Where untouched space begins.
    pub fn frontier(&self) -> u64 {
        self.frontier
    }

    /// Whether every owner is known.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Records an owner. Two owners of one unit are damage.
    pub fn own(&mut self, range: Range<u64>) -> Result<(), FormatError> {
        for unit in units(&range) {
            let (word, bit) = self.word(unit);
            if *word & bit != 0 {
                let problem = format!("two structures share the file space at {:#x}", unit * MIB);
                return Err(FormatError::damaged("file layout", problem));
            }
            *word |= bit;
        }
        self.frontier = self.frontier.max(range.end.next_multiple_of(MIB));
        Ok(())
    }

    /// Forgets an owner. The space is not given out again before the file is reopened: reads of it may be in flight.
    pub fn disown(&mut self, range: &Range<u64>) {
        for unit in units(range) {
            let (word, bit) = self.word(unit);
            *word &= !bit;
        }
    }

    /// Every owner is known now: the gaps between them can be used.
    pub fn complete(&mut self) {
        self.complete = true;
        self.holes.clear();
        let mut at = MIB;
        for owned in self.owned_runs() {
            if owned.start > at {
                self.holes.insert(at, owned.start - at);
            }
            at = at.max(owned.end);
        }
        if at < self.frontier {
            self.holes.insert(at, self.frontier - at);
        }
    }

    /// Takes `length` bytes: a hole when one fits, else space at the end.
    pub fn allocate(&mut self, length: u64) -> Result<Found, FormatError> {
        let hole = self.holes.iter().find(|(_, size)| **size >= length).map(|(at, size)| (*at, *size));
        let found = match hole {
            Some((offset, size)) => {
                self.holes.remove(&offset);
                if size > length {
                    self.holes.insert(offset + length, size - length);
                }
                Found { offset, fresh: false }
            }
            None => Found { offset: self.frontier, fresh: true },
        };
        self.own(found.offset..found.offset + length)?;
        Ok(found)
    }

    /// Takes `length` bytes at the end, never a hole: blocks of a fixed disk stay in one piece.
    pub fn allocate_at_end(&mut self, length: u64) -> Result<u64, FormatError> {
        let offset = self.frontier;
        self.own(offset..offset + length)?;
        Ok(offset)
    }

    /// Takes the lowest hole of `length` bytes that lies below `limit`.
    pub fn take_below(&mut self, length: u64, limit: u64) -> Option<u64> {
        let (offset, size) = self.holes.iter().find(|(_, size)| **size >= length).map(|(at, size)| (*at, *size))?;
        if offset >= limit {
            return None;
        }
        self.holes.remove(&offset);
        if size > length {
            self.holes.insert(offset + length, size - length);
        }
        self.own(offset..offset + length).ok()?;
        Some(offset)
    }

    /// Forgets an owner whose space may be used again at once (nobody reads or writes there any more).
    pub fn release(&mut self, range: Range<u64>) {
        self.disown(&range);
        if !self.complete {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((at, length)) = self.holes.range(..start).next_back().map(|(at, length)| (*at, *length))
            && at + length == start
        {
            self.holes.remove(&at);
            start = at;
        }
        if let Some(length) = self.holes.remove(&end) {
            end += length;
        }
        self.holes.insert(start, end - start);
    }

    /// End of the last owned unit; the end of the header area when there is none.
    pub fn used_end(&self) -> u64 {
        self.owned_runs().last().map_or(MIB, |run| run.end)
    }

    /// Bytes with an owner.
    pub fn owned_bytes(&self) -> u64 {
        self.pages.values().flat_map(|words| words.iter()).map(|word| u64::from(word.count_ones()) * MIB).sum()
    }

    fn word(&mut self, unit: u64) -> (&mut u64, u64) {
        let page = self.pages.entry(unit / UNITS_PER_PAGE).or_insert_with(|| Box::new([0; WORDS]));
        let inside = unit % UNITS_PER_PAGE;
        (&mut page[(inside / 64) as usize], 1 << (inside % 64))
    }

    /// Maximal owned ranges, ascending.
    fn owned_runs(&self) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (page, words) in &self.pages {
            for (index, word) in words.iter().enumerate().filter(|(_, word)| **word != 0) {
                for bit in (0..64).filter(|bit| word & (1 << bit) != 0) {
                    let at = (page * UNITS_PER_PAGE + index as u64 * 64 + bit) * MIB;
                    match runs.last_mut() {
                        Some(last) if last.end == at => last.end = at + MIB,
                        _ => runs.push(at..at + MIB),
                    }
                }
            }
        }
        runs
    }
}

fn units(range: &Range<u64>) -> Range<u64> {
    range.start / MIB..range.end.div_ceil(MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_used_before_the_end_and_overlap_is_found() {
        let mut space = SpaceMap::new(10 * MIB);
        space.own(MIB..3 * MIB).unwrap();
        space.own(5 * MIB..6 * MIB).unwrap();
        assert!(space.own(2 * MIB..4 * MIB).is_err());
        assert_eq!(space.allocate(2 * MIB).unwrap(), Found { offset: 10 * MIB, fresh: true });
        let mut space = SpaceMap::new(10 * MIB);
        space.own(MIB..3 * MIB).unwrap();
        space.own(5 * MIB..6 * MIB).unwrap();
        space.complete();
        assert_eq!(space.holes.clone().into_iter().collect::<Vec<_>>(), [(3 * MIB, 2 * MIB), (6 * MIB, 4 * MIB)]);
        assert_eq!(space.allocate(4 * MIB).unwrap(), Found { offset: 6 * MIB, fresh: false });
        assert_eq!(space.allocate(MIB).unwrap().offset, 3 * MIB);
        assert_eq!(space.allocate(2 * MIB).unwrap(), Found { offset: 10 * MIB, fresh: true });
        assert_eq!(space.used_end(), 12 * MIB);
    }
}
