//! One bit per guest page: [`PageBitmap`], and [`DirtyBitmap`], the same with a switch.
//!
//! Indexed by guest page number (gpa >> 12) from 0 to the end of RAM, so an engine needs no translation.

use crate::{PAGE_SHIFT, PAGE_SIZE};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A fixed number of atomic bits, one per guest page. All operations are safe from any thread; a page number outside
/// is ignored (and tests false).
pub struct PageBitmap {
    words: Box<[AtomicU64]>,
    pages: u64,
}

impl PageBitmap {
    /// `pages` bits, all clear. Untouched parts cost no memory.
    pub fn new(pages: u64) -> Self {
        let words = Box::new_zeroed_slice(pages.div_ceil(64) as usize);
        // SAFETY: all-zero bytes are a valid `AtomicU64`.
        Self { words: unsafe { words.assume_init() }, pages }
    }

    /// How many bits there are.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The bits themselves, page `n` in bit `n % 64` of word `n / 64`, for engines whose generated code sets them.
    pub fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    /// Sets one bit. Everything written before is visible to whoever harvests the bit.
    #[inline]
    pub fn set(&self, page: u64) {
        if page < self.pages {
            // Unconditionally read-modify-write: "already set, so skip" could read a bit that is being harvested
            // while our data is still in the store buffer.
            self.words[(page / 64) as usize].fetch_or(1 << (page % 64), Ordering::SeqCst);
        }
    }

    /// Clears one bit.
    #[inline]
    pub fn clear(&self, page: u64) {
        if page < self.pages {
            self.words[(page / 64) as usize].fetch_and(!(1 << (page % 64)), Ordering::SeqCst);
        }
    }

    /// Whether a bit is set.
    #[inline]
    pub fn test(&self, page: u64) -> bool {
        page < self.pages && self.words[(page / 64) as usize].load(Ordering::Acquire) >> (page % 64) & 1 != 0
    }

    /// Sets `count` bits from `first` on, a word at a time.
    pub fn set_range(&self, first: u64, count: u64) {
        for (word, mask) in self.masks(first, count) {
            self.words[word].fetch_or(mask, Ordering::SeqCst);
        }
    }

    /// Clears `count` bits from `first` on.
    pub fn clear_range(&self, first: u64, count: u64) {
        for (word, mask) in self.masks(first, count) {
            self.words[word].fetch_and(!mask, Ordering::SeqCst);
        }
    }

    /// Whether any of `count` bits from `first` on is set.
    #[inline]
    pub fn any(&self, first: u64, count: u64) -> bool {
        if count == 1 {
            return self.test(first);
        }
        self.masks(first, count).any(|(word, mask)| self.words[word].load(Ordering::Acquire) & mask != 0)
    }

    /// Takes all bits and leaves zeros: word `n` of the answer holds pages `64 n` to `64 n + 63`.
    /// Data written before a bit was set is visible after this call.
    pub fn harvest(&self) -> Vec<u64> {
        self.words.iter().map(Self::take).collect()
    }

    /// Takes all bits and returns them as ascending, merged ranges of page numbers.
    pub fn harvest_ranges(&self) -> Vec<Range<u64>> {
        page_ranges(self.words.iter().map(Self::take))
    }

    /// Clean words are only read: a sweep over a quiet VM takes no cache line away from its processors.
    fn take(word: &AtomicU64) -> u64 {
        if word.load(Ordering::SeqCst) == 0 { 0 } else { word.swap(0, Ordering::SeqCst) }
    }

    /// The words that `count` bits from `first` on lie in, each with the mask of those bits; clipped to the bitmap.
    fn masks(&self, first: u64, count: u64) -> impl Iterator<Item = (usize, u64)> + use<> {
        let end = first.saturating_add(count).min(self.pages);
        let words = if first < end { first / 64..end.div_ceil(64) } else { 0..0 };
        words.map(move |word| {
            let from = first.saturating_sub(word * 64);
            let below = (end - word * 64).min(64);
            (word as usize, u64::MAX << from & u64::MAX >> (64 - below))
        })
    }
}

/// Turns harvested words into ascending ranges of page numbers, neighbours merged.
pub(crate) fn page_ranges(words: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (index, mut word) in words.enumerate() {
        while word != 0 {
            let start = word.trailing_zeros();
            let run = (word >> start).trailing_ones();
            let first = index as u64 * 64 + u64::from(start);
            let end = first + u64::from(run);
            match ranges.last_mut() {
                Some(last) if last.end == first => last.end = end,
                _ => ranges.push(first..end),
            }
            word &= u64::MAX.checked_shl(start + run).unwrap_or(0);
        }
    }
    ranges
}

/// The dirty log: which pages were written since the last harvest, while it is enabled. Shared with the engines.
///
/// Order for writers that go through host pointers: write, then [`log`](Self::log). For whoever copies RAM: harvest,
/// then copy the harvested pages. Then a page that changes during the copy is in the next harvest.
pub struct DirtyBitmap {
    bits: PageBitmap,
    enabled: AtomicBool,
}

impl DirtyBitmap {
    /// For guest pages `0..pages`; off.
    pub fn new(pages: u64) -> Self {
        Self { bits: PageBitmap::new(pages), enabled: AtomicBool::new(false) }
    }

    /// Clears the log and switches it on. Every write that is not yet visible to this thread when the call returns
    /// will be logged, even one that another thread is in the middle of: then copying all of RAM, followed by the
    /// harvested pages, loses nothing.
    pub fn enable(&self) {
        self.bits.harvest();
        self.enabled.store(true, Ordering::SeqCst);
        fence_all_threads();
    }

    /// Switches the log off. Bits stay until the next `enable`.
    pub fn disable(&self) {
        self.enabled.store(false, Ordering::SeqCst);
    }

    /// Whether writes are being logged.
    #[inline]
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Notes that bytes `gpa..gpa + len` were written, if the log is on. One branch when it is off.
    #[inline]
    pub fn log(&self, gpa: u64, len: u64) {
        if self.is_enabled() && len != 0 {
            let first = gpa >> PAGE_SHIFT;
            let last = gpa.saturating_add(len - 1) >> PAGE_SHIFT;
            if first == last { self.bits.set(first) } else { self.bits.set_range(first, last - first + 1) }
        }
    }

    /// Notes one page, whether the log is on or not.
    #[inline]
    pub fn set(&self, page: u64) {
        self.bits.set(page);
    }

    /// Notes `count` pages, whether the log is on or not: what the kernel's own dirty log reported, for example.
    pub fn set_range(&self, first_page: u64, count: u64) {
        self.bits.set_range(first_page, count);
    }

    /// Whether a page is in the log.
    pub fn test(&self, page: u64) -> bool {
        self.bits.test(page)
    }

    /// Takes the log and leaves it empty: word `n` holds pages `64 n` to `64 n + 63`.
    pub fn harvest(&self) -> Vec<u64> {
        self.bits.harvest()
    }

    /// Takes the log and leaves it empty: ascending, merged ranges of page numbers.
    pub fn harvest_ranges(&self) -> Vec<Range<u64>> {
        self.bits.harvest_ranges()
    }

    /// The bits themselves, for engines whose generated code sets them.
    pub fn bits(&self) -> &PageBitmap {
        &self.bits
    }
}

/// Makes every other thread of this process pass a full memory fence. It spares writers a fence on each write: the
/// rare side (switching the log on, watching a page) pays for both.
#[cfg(not(miri))]
pub(crate) fn fence_all_threads() {
    use rustix::thread::{MembarrierCommand, membarrier};
    use std::sync::OnceLock;
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let expedited = *REGISTERED.get_or_init(|| membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok());
    let command = if expedited { MembarrierCommand::PrivateExpedited } else { MembarrierCommand::Global };
    if membarrier(command).is_err() {
        // A host that refuses membarrier: what is left is our own fence; the store buffers of others drain in
        // nanoseconds, long before the caller has copied its first page.
        std::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// Miri has no store buffers of other processors to wait for.
#[cfg(miri)]
pub(crate) fn fence_all_threads() {
    std::sync::atomic::fence(Ordering::SeqCst);
}

/// Number of bits that cover all addresses below `end`.
pub(crate) fn pages_below(end: u64) -> u64 {
    end.div_ceil(PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: if cfg!(miri) { 8 } else { 256 }, ..ProptestConfig::default() })]
        #[test]
        fn ranges_agree_with_single_bits(first in 0u64..260, count in 0u64..300, clear in 0u64..260) {
            let (by_range, by_bit) = (PageBitmap::new(250), PageBitmap::new(250));
            by_range.set_range(first, count);
            (first..first + count).for_each(|page| by_bit.set(page));
            by_range.clear_range(clear, 10);
            (clear..clear + 10).for_each(|page| by_bit.clear(page));
            for page in 0..320 {
                let expected = (first..first + count).contains(&page) && !(clear..clear + 10).contains(&page) && page < 250;
                prop_assert_eq!(by_range.test(page), expected);
                prop_assert_eq!(by_range.any(page, 1), expected);
            }
            prop_assert_eq!(by_range.any(first, count), (first..first + count).any(|page| by_bit.test(page)));
            let words = by_bit.harvest();
            prop_assert_eq!(by_range.harvest_ranges(), page_ranges(words.into_iter()));
            prop_assert!(by_bit.harvest().iter().all(|&word| word == 0));
        }
    }

    #[test]
    fn ranges_merge_across_words() {
        let bits = PageBitmap::new(256);
        bits.set_range(60, 10);
        bits.set(128);
        bits.set_range(190, 66);
        assert_eq!(bits.harvest_ranges(), [60..70, 128..129, 190..256]);
        assert_eq!(bits.harvest_ranges(), []);
    }

    #[test]
    fn the_log_is_off_until_enabled_and_empty_then() {
        let dirty = DirtyBitmap::new(16);
        dirty.log(0, 4096);
        assert!(!dirty.test(0));
        dirty.set(3);
        dirty.enable();
        dirty.log(4095, 2);
        dirty.log(0x8000, 0);
        dirty.log(0x7000, 1);
        assert_eq!(dirty.harvest_ranges(), [0..2, 7..8]);
        dirty.log(u64::MAX, 5);
        assert_eq!(dirty.harvest_ranges(), []);
    }
}
