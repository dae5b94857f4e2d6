//! A page of one bitmap; pure.

use std::ops::Range;

/// Bytes of a page in the file.
pub const PAGE: u64 = 4096;
const HEADER: usize = 16;
const WORDS: usize = (PAGE as usize - HEADER) / 8;
/// Granules of a page.
pub const PAGE_GRANULES: u64 = WORDS as u64 * 64;

/// The bits of a page: bit `n % 64` of word `n / 64` is granule `n`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageBits([u64; WORDS]);

impl Default for PageBits {
    fn default() -> Self {
        Self([0; WORDS])
    }
}

/// What the bytes of a page are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageContents {
    /// Never written, or of a bitmap that is gone.
    Empty,
    /// The granules of the bitmap.
    Bits(Box<PageBits>),
    /// Torn or rotten: everything counts as changed.
    Damaged,
}

impl PageBits {
    /// Every granule.
    pub fn full() -> Self {
        Self([u64::MAX; WORDS])
    }

    /// Adds a run of granules (inside the page); true if one of them is new.
    pub fn insert(&mut self, granules: Range<usize>) -> bool {
        let mut new = false;
        let mut at = granules.start;
        while at < granules.end {
            let (word, bit) = (at / 64, at % 64);
            let count = (64 - bit).min(granules.end - at);
            let mask = (u64::MAX >> (64 - count)) << bit;
            new |= self.0[word] & mask != mask;
            self.0[word] |= mask;
            at += count;
        }
        new
    }

    /// Adds all of `other`; true if one of them is new.
    pub fn union(&mut self, other: &Self) -> bool {
        let mut new = false;
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            new |= more & !*word != 0;
            *word |= more;
        }
        new
    }

    pub fn contains(&self, granule: usize) -> bool {
        self.0.get(granule / 64).is_some_and(|word| word >> (granule % 64) & 1 != 0)
    }

    pub fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// As page `number` of bitmap `id`.
    pub fn encode(&self, id: u32, number: u32) -> Vec<u8> {
        let mut page = vec![0; HEADER];
        page[4..8].copy_from_slice(&id.to_le_bytes());
        page[8..12].copy_from_slice(&number.to_le_bytes());
        page.extend(self.0.iter().flat_map(|word| word.to_le_bytes()));
        let sum = crc32c::crc32c(&page[4..]);
        page[..4].copy_from_slice(&sum.to_le_bytes());
        page
    }
}

/// Reads page `number` of bitmap `id`.
pub fn decode(page: &[u8], id: u32, number: u32) -> PageContents {
    if page.iter().all(|byte| *byte == 0) {
        return PageContents::Empty;
    }
    let u32_at =
        |at: usize| page.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap_or([0; 4])));
    if page.len() as u64 != PAGE || crc32c::crc32c(&page[4..]) != u32_at(0) {
        return PageContents::Damaged;
    }
    if u32_at(4) != id {
        return PageContents::Empty;
    }
    if u32_at(8) != number {
        return PageContents::Damaged;
    }
    let mut bits = Box::<PageBits>::default();
    for (word, bytes) in bits.0.iter_mut().zip(page[HEADER..].chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().unwrap_or([0xFF; 8]));
    }
    PageContents::Bits(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_comes_back_and_a_flipped_bit_is_seen() {
        let mut bits = PageBits::default();
        assert!(
            bits.insert(60..70)
                && !bits.insert(64..70)
                && bits.insert(PAGE_GRANULES as usize - 1..PAGE_GRANULES as usize)
        );
        assert_eq!(bits.count(), 11);
        let page = bits.encode(7, 3);
        assert_eq!(page.len() as u64, PAGE);
        assert_eq!(decode(&page, 7, 3), PageContents::Bits(Box::new(bits)));
        assert_eq!(decode(&page, 8, 3), PageContents::Empty, "another bitmap's");
        assert_eq!(decode(&page, 7, 4), PageContents::Damaged, "another place's");
        for at in [0, 5, 9, 100, 4095] {
            let mut bad = page.clone();
            bad[at] ^= 4;
            assert_eq!(decode(&bad, 7, 3), PageContents::Damaged);
        }
        assert_eq!(decode(&[0; 4096], 7, 3), PageContents::Empty);
    }
}
