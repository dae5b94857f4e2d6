//! A sparse set of granules; pure.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::page::{PAGE_GRANULES, PageBits};

/// Bytes of a granule.
pub const GRANULE: u64 = 64 << 10;

/// Granules, in pages of [`PAGE_GRANULES`]. Pages without a granule take no memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granules {
    pages: BTreeMap<u32, Box<PageBits>>,
}

/// The granules that a range of bytes touches.
pub fn granules_of(bytes: &Range<u64>) -> Range<u64> {
    if bytes.is_empty() {
        return 0..0;
    }
    bytes.start / GRANULE..(bytes.end - 1) / GRANULE + 1
}

impl Granules {
    /// Adds granules; calls `changed` with the number of each page that has new ones.
    pub fn insert(&mut self, granules: Range<u64>, mut changed: impl FnMut(u32)) {
        let mut at = granules.start;
        while at < granules.end {
            let (number, first) = (at / PAGE_GRANULES, at % PAGE_GRANULES);
            let last = PAGE_GRANULES.min(first + (granules.end - at));
            at += last - first;
            // A disk of 64 TiB has 33 thousand pages.
            let Ok(number) = u32::try_from(number) else { return };
            let page = self.pages.entry(number).or_insert_with(|| Box::new(PageBits::default()));
            if page.insert(first as usize..last as usize) {
                changed(number);
            }
        }
    }

    /// Takes over all granules of `other`.
    pub fn union(&mut self, other: &Self, mut changed: impl FnMut(u32)) {
        for (number, bits) in &other.pages {
            let page = self.pages.entry(*number).or_insert_with(|| Box::new(PageBits::default()));
            if page.union(bits) {
                changed(*number);
            }
        }
    }

    /// The bits of a page; None = no granule.
    pub fn page(&self, number: u32) -> Option<&PageBits> {
        self.pages.get(&number).map(|page| &**page)
    }

    /// Replaces a page that was read.
    pub fn set_page(&mut self, number: u32, bits: Box<PageBits>) {
        if bits.count() > 0 {
            self.pages.insert(number, bits);
        }
    }

    /// How many granules there are.
    pub fn count(&self) -> u64 {
        self.pages.values().map(|page| page.count()).sum()
    }

    /// `range` (bytes) as runs of changed and unchanged bytes, in order, neighbours joined.
    pub fn runs(&self, range: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let mut runs: Vec<(Range<u64>, bool)> = Vec::new();
        let mut push = |part: Range<u64>, changed| match runs.last_mut() {
            Some((last, same)) if *same == changed => last.end = part.end,
            _ => runs.push((part, changed)),
        };
        let span = PAGE_GRANULES * GRANULE;
        let mut at = range.start;
        while at < range.end {
            let number = at / span;
            let Some(page) = u32::try_from(number).ok().and_then(|number| self.page(number)) else {
                let end = range.end.min((number + 1).saturating_mul(span));
                push(at..end, false);
                at = end;
                continue;
            };
            let changed = page.contains(((at % span) / GRANULE) as usize);
            let end = range.end.min((at / GRANULE + 1) * GRANULE);
            push(at..end, changed);
            at = end;
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_joined_and_cut_at_the_range() {
        let mut set = Granules::default();
        let mut pages = Vec::new();
        set.insert(granules_of(&(100..GRANULE + 1)), |page| pages.push(page));
        set.insert(PAGE_GRANULES - 1..PAGE_GRANULES + 1, |page| pages.push(page));
        set.insert(0..1, |page| pages.push(page));
        assert_eq!(pages, [0, 0, 1], "what is there already changes nothing");
        assert_eq!(set.count(), 4);
        let span = PAGE_GRANULES * GRANULE;
        let runs = set.runs(512..3 * span);
        let expected = [
            (512..2 * GRANULE, true),
            (2 * GRANULE..span - GRANULE, false),
            (span - GRANULE..span + GRANULE, true),
            (span + GRANULE..3 * span, false),
        ];
        assert_eq!(runs, expected);
        assert!(granules_of(&(5..5)).is_empty());
    }
}
