//! A set of guest pages as a bitmap: however scattered a guest's answers are, it costs a bit per page.

use std::ops::Range;

/// A set of page numbers below a limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
    count: u64,
}

impl PageSet {
    /// An empty set for pages below `limit`.
    pub fn new(limit: u64) -> PageSet {
        PageSet { words: vec![0; limit.div_ceil(64) as usize], count: 0 }
    }

    /// How many pages are in it.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Adds the pages of a range that can be in it. Returns how many are new.
    pub fn insert(&mut self, range: Range<u64>) -> u64 {
        let before = self.count;
        for page in range.start..range.end.min(self.words.len() as u64 * 64) {
            let (word, bit) = (&mut self.words[(page / 64) as usize], 1 << (page % 64));
            self.count += u64::from(*word & bit == 0);
            *word |= bit;
        }
        self.count - before
    }

    /// Removes pages from the lowest on: at most `pages` of them, in at most `ranges` ranges, which it returns.
    pub fn take(&mut self, pages: u64, ranges: usize) -> Vec<Range<u64>> {
        let mut taken: Vec<Range<u64>> = Vec::new();
        let mut left = pages;
        for run in self.runs().take(ranges) {
            if left == 0 {
                break;
            }
            let end = run.end.min(run.start.saturating_add(left));
            left -= end - run.start;
            taken.push(run.start..end);
        }
        for range in &taken {
            for page in range.clone() {
                self.words[(page / 64) as usize] &= !(1 << (page % 64));
            }
            self.count -= range.end - range.start;
        }
        taken
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.words.fill(0);
        self.count = 0;
    }

    /// Its pages as ascending ranges, neighbours merged.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let limit = self.words.len() as u64 * 64;
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next(at, true).filter(|start| *start < limit)?;
            let end = self.next(start, false).unwrap_or(limit);
            at = end;
            Some(start..end)
        })
    }

    /// The first page from `from` on that is in the set, or is not.
    fn next(&self, from: u64, set: bool) -> Option<u64> {
        let flip = if set { 0 } else { u64::MAX };
        let first = (from / 64) as usize;
        for (index, word) in self.words.iter().enumerate().skip(first) {
            let mut bits = *word ^ flip;
            if index == first {
                bits &= u64::MAX << (from % 64);
            }
            if bits != 0 {
                return Some(index as u64 * 64 + u64::from(bits.trailing_zeros()));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::PageSet;

    #[test]
    fn pages_go_in_and_out_in_ranges() {
        let mut set = PageSet::new(1000);
        assert_eq!(set.insert(10..20), 10);
        assert_eq!(set.insert(15..25), 5);
        assert_eq!(set.insert(60..200), 140);
        assert_eq!(set.insert(990..5000), 34);
        assert_eq!(set.runs().collect::<Vec<_>>(), [10..25, 60..200, 990..1024]);
        assert_eq!(set.take(20, 10), [10..25, 60..65]);
        assert_eq!(set.take(1000, 1), std::slice::from_ref(&(65..200)));
        assert_eq!(set.len(), 34);
        assert_eq!(set.take(u64::MAX, 9), std::slice::from_ref(&(990..1024)));
        assert_eq!((set.len(), set.runs().count()), (0, 0));
    }
}
