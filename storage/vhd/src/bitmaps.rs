//! The sector bitmaps of blocks: one bit per block for "all set", a bounded cache for the rest.

use bulkhead_disk::SECTOR;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;

/// Budget of the cache in bytes of bitmaps.
const BUDGET: usize = 16 << 20;

/// A block's bits, the most significant first.
struct Bitmap {
    bits: Box<[u8]>,
    used: bool,
}

/// All bitmaps of an image.
pub(crate) struct Bitmaps {
    size: usize,
    sectors: u32,
    full: Vec<u64>,
    cached: HashMap<u32, Bitmap>,
    order: VecDeque<u32>,
    /// Changed since the last flush began; true = its bits must follow its data.
    dirty: BTreeMap<u32, bool>,
    /// Being flushed.
    flushing: BTreeSet<u32>,
}

impl Bitmaps {
    /// For `blocks` blocks whose bitmaps take `size` bytes, `sectors` bits of which count.
    pub(crate) fn new(blocks: usize, size: u64, sectors: u64) -> Self {
        Self {
            size: size as usize,
            sectors: sectors as u32,
            full: vec![0; blocks.div_ceil(64)],
            cached: HashMap::new(),
            order: VecDeque::new(),
            dirty: BTreeMap::new(),
            flushing: BTreeSet::new(),
        }
    }

    pub(crate) fn resize(&mut self, blocks: usize) {
        self.full.resize(blocks.div_ceil(64), 0);
    }

    pub(crate) fn is_full(&self, block: u32) -> bool {
        self.full[block as usize / 64] >> (block % 64) & 1 != 0
    }

    pub(crate) fn is_known(&self, block: u32) -> bool {
        self.is_full(block) || self.cached.contains_key(&block)
    }

    /// True while the file does not durably have the block's present bits and its table entry.
    pub(crate) fn is_unsettled(&self, block: u32) -> bool {
        self.dirty.contains_key(&block) || self.flushing.contains(&block)
    }

    /// Blocks that wait for a flush.
    pub(crate) fn dirty_blocks(&self) -> usize {
        self.dirty.len()
    }

    /// Takes over what was read from the file; what is already known is newer.
    pub(crate) fn learn(&mut self, block: u32, bits: Vec<u8>) {
        if self.is_known(block) {
            return;
        }
        if all_set(&bits, self.sectors) {
            self.set_full(block);
        } else {
            self.insert(block, bits.into_boxed_slice());
        }
    }

    /// A new block: all sectors count as written, or none.
    pub(crate) fn create(&mut self, block: u32, full: bool) {
        if full {
            self.set_full(block);
            self.dirty.insert(block, false);
        } else {
            self.insert(block, vec![0; self.size].into_boxed_slice());
            self.dirty.insert(block, true);
        }
    }

    /// Forgets a block that left the table.
    pub(crate) fn forget(&mut self, block: u32) {
        self.full[block as usize / 64] &= !(1 << (block % 64));
        self.cached.remove(&block);
        self.dirty.remove(&block);
    }

    fn set_full(&mut self, block: u32) {
        self.full[block as usize / 64] |= 1 << (block % 64);
    }

    fn insert(&mut self, block: u32, bits: Box<[u8]>) {
        self.cached.insert(block, Bitmap { bits, used: true });
        self.order.push_back(block);
        // Some turns per entry keep the cost even when most of the cache waits for a flush.
        let mut turns = 64;
        while self.cached.len() * self.size > BUDGET && turns > 0 {
            turns -= 1;
            let Some(oldest) = self.order.pop_front() else { break };
            let Some(bitmap) = self.cached.get_mut(&oldest) else { continue };
            let keep = std::mem::take(&mut bitmap.used) || oldest == block;
            if keep || self.is_unsettled(oldest) {
                self.order.push_back(oldest);
            } else {
                self.cached.remove(&oldest);
            }
        }
    }

    /// The runs of equal bits in `sectors` of a known block: (sectors, set).
    pub(crate) fn runs(&mut self, block: u32, sectors: Range<u32>) -> Vec<(u32, bool)> {
        if self.is_full(block) {
            return vec![(sectors.end - sectors.start, true)];
        }
        let Some(bitmap) = self.cached.get_mut(&block) else { return Vec::new() };
        bitmap.used = true;
        let mut runs: Vec<(u32, bool)> = Vec::new();
        let mut at = sectors.start;
        while at < sectors.end {
            let set = bit(&bitmap.bits, at);
            let stop = run_end(&bitmap.bits, at, sectors.end, set);
            runs.push((stop - at, set));
            at = stop;
        }
        runs
    }

    /// True when the block is known and all of `sectors` are set.
    pub(crate) fn has(&mut self, block: u32, sectors: Range<u32>) -> bool {
        if self.is_full(block) {
            return true;
        }
        let Some(bitmap) = self.cached.get_mut(&block) else { return false };
        bitmap.used = true;
        run_end(&bitmap.bits, sectors.start, sectors.end, true) == sectors.end
    }

    /// Sets bits of a known block.
    pub(crate) fn set(&mut self, block: u32, sectors: Range<u32>) {
        if self.is_full(block) {
            return;
        }
        let Some(bitmap) = self.cached.get_mut(&block) else { return };
        for sector in sectors {
            bitmap.bits[sector as usize / 8] |= 0x80 >> (sector % 8);
        }
        self.dirty.insert(block, true);
    }

    /// What a flush has to write: (block, bytes), and whether the data must be stable before. Counts as being flushed.
    pub(crate) fn begin_flush(&mut self) -> (Vec<(u32, Vec<u8>)>, bool) {
        let dirty = std::mem::take(&mut self.dirty);
        let barrier = dirty.values().any(|follows| *follows);
        let writes = dirty.keys().map(|block| (*block, self.bytes(*block))).collect();
        self.flushing = dirty.into_keys().collect();
        (writes, barrier)
    }

    /// The flush ended; after a failure everything is dirty again.
    pub(crate) fn end_flush(&mut self, ok: bool) {
        for block in std::mem::take(&mut self.flushing) {
            if !ok {
                self.dirty.entry(block).or_insert(true);
            } else if !self.dirty.contains_key(&block)
                && self.cached.get(&block).is_some_and(|bitmap| all_set(&bitmap.bits, self.sectors))
            {
                self.cached.remove(&block);
                self.set_full(block);
            }
        }
    }

    /// The bitmap as it is stored.
    pub(crate) fn bytes(&self, block: u32) -> Vec<u8> {
        match self.cached.get(&block) {
            Some(bitmap) => bitmap.bits.to_vec(),
            None => vec![0xFF; self.size],
        }
    }
}

fn bit(bits: &[u8], sector: u32) -> bool {
    bits[sector as usize / 8] & 0x80 >> (sector % 8) != 0
}

/// The first sector from `at` on whose bit is not `set`, at most `end`.
fn run_end(bits: &[u8], mut at: u32, end: u32, set: bool) -> u32 {
    let whole = if set { 0xFF } else { 0 };
    while at < end {
        if at.is_multiple_of(8) && end - at >= 8 && bits[at as usize / 8] == whole {
            at += 8;
        } else if bit(bits, at) == set {
            at += 1;
        } else {
            break;
        }
    }
    at
}

fn all_set(bits: &[u8], sectors: u32) -> bool {
    run_end(bits, 0, sectors, true) == sectors
}

/// Sectors of a byte range inside a block.
pub(crate) fn sectors(range: &Range<u64>) -> Range<u32> {
    (range.start / SECTOR) as u32..(range.end / SECTOR) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_most_significant_first_and_become_full() {
        let mut bitmaps = Bitmaps::new(100, 512, 4096);
        bitmaps.create(70, false);
        bitmaps.set(70, 0..3);
        bitmaps.set(70, 9..10);
        assert_eq!(bitmaps.bytes(70)[..2], [0b1110_0000, 0b0100_0000]);
        assert_eq!(bitmaps.runs(70, 1..20), [(2, true), (6, false), (1, true), (10, false)]);
        let (writes, barrier) = bitmaps.begin_flush();
        assert!(writes.len() == 1 && barrier && bitmaps.is_unsettled(70));
        bitmaps.set(70, 0..4096);
        bitmaps.end_flush(true);
        assert!(!bitmaps.is_full(70), "the new bits are not on disk yet");
        bitmaps.begin_flush();
        bitmaps.end_flush(true);
        assert!(bitmaps.is_full(70) && !bitmaps.is_unsettled(70));
    }

    #[test]
    fn the_cache_is_bounded_but_keeps_what_is_dirty() {
        let mut bitmaps = Bitmaps::new(100_000, 512, 4096);
        for block in 0..100 {
            bitmaps.create(block, false);
        }
        for block in 100..100_000 {
            bitmaps.learn(block, vec![1; 512]);
        }
        assert!(bitmaps.cached.len() * 512 <= BUDGET + 100 * 512);
        assert!((0..100).all(|block| bitmaps.is_known(block)));
    }
}
