//! Metadata sectors (4 KiB of BAT, bitmaps, metadata items) in memory: dirty tracking and eviction. No I/O.

use crate::format::SECTOR;
use std::collections::HashMap;

/// Clean sectors beyond this are forgotten: 16 MiB.
const CAPACITY: usize = 4096;

struct Cached {
    data: Box<[u8]>,
    /// Changed since the last commit took it.
    dirty: bool,
    /// The change points to payload that must be durable first.
    barrier: bool,
    /// Taken by commits that have not written it to its place yet.
    pinned: u32,
    /// Second-chance bit of the eviction.
    used: bool,
}

/// What a commit takes: the contents of the dirty sectors at one moment.
#[derive(Default)]
pub struct Batch {
    /// (file offset, 4 KiB).
    pub sectors: Vec<(u64, Box<[u8]>)>,
    /// Payload must be durable before these sectors are.
    pub barrier: bool,
}

/// The cache. Keys are file offsets, multiples of 4 KiB.
#[derive(Default)]
pub struct SectorCache {
    sectors: HashMap<u64, Cached>,
    dirty: Vec<u64>,
    hits: u64,
    misses: u64,
}

impl SectorCache {
    /// The sector at `offset`, when it is here.
    pub fn get(&mut self, offset: u64) -> Option<&[u8]> {
        match self.sectors.get_mut(&offset) {
            Some(cached) => {
                cached.used = true;
                self.hits += 1;
                Some(&cached.data)
            }
            None => {
                self.misses += 1;
                None
            }
        }
    }

    /// The lowest sector in `range` that is here.
    pub fn first_in(&self, range: std::ops::Range<u64>) -> Option<u64> {
        self.sectors.keys().copied().filter(|offset| range.contains(offset)).min()
    }

    /// Reads served from memory, and reads that went to the file (VHD-17's counters).
    pub fn counters(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    /// Adds what was read from the file, unless a newer version is already here.
    pub fn insert(&mut self, offset: u64, data: &[u8]) {
        if self.sectors.len() >= CAPACITY && !self.sectors.contains_key(&offset) {
            self.evict();
        }
        let cached = Cached { data: data.into(), dirty: false, barrier: false, pinned: 0, used: true };
        self.sectors.entry(offset).or_insert(cached);
    }

    /// Changes bytes of a sector that is here; false when it is not.
    pub fn modify(&mut self, offset: u64, barrier: bool, change: impl FnOnce(&mut [u8])) -> bool {
        let Some(cached) = self.sectors.get_mut(&offset) else { return false };
        change(&mut cached.data);
        cached.used = true;
        cached.barrier |= barrier;
        if !cached.dirty {
            cached.dirty = true;
            self.dirty.push(offset);
        }
        true
    }

    /// Number of dirty sectors.
    pub fn dirty_count(&self) -> usize {
        self.dirty.len()
    }

    /// Takes the dirty sectors; they count as clean from now on, but stay until [`SectorCache::unpin`].
    pub fn take_dirty(&mut self) -> Batch {
        let mut batch = Batch::default();
        self.dirty.sort_unstable();
        for offset in std::mem::take(&mut self.dirty) {
            let Some(cached) = self.sectors.get_mut(&offset) else { continue };
            cached.dirty = false;
            cached.pinned += 1;
            batch.barrier |= std::mem::take(&mut cached.barrier);
            batch.sectors.push((offset, cached.data.clone()));
        }
        batch
    }

    /// A commit failed before its log entry was durable: its sectors are dirty again.
    pub fn give_back(&mut self, batch: &Batch) {
        for (offset, _) in &batch.sectors {
            self.modify(*offset, batch.barrier, |_| {});
            self.unpin(*offset);
        }
    }

    /// A commit wrote the sector to its place.
    pub fn unpin(&mut self, offset: u64) {
        if let Some(cached) = self.sectors.get_mut(&offset) {
            cached.pinned = cached.pinned.saturating_sub(1);
        }
    }

    /// Forgets clean sectors of a range that no longer holds metadata.
    pub fn forget(&mut self, range: &std::ops::Range<u64>) {
        self.sectors.retain(|offset, cached| !range.contains(offset) || cached.dirty || cached.pinned > 0);
    }

    /// Makes room: a quarter of the cache, those not used since the last time first.
    fn evict(&mut self) {
        let mut excess = CAPACITY / 4;
        for spare_used in [true, false] {
            self.sectors.retain(|_, cached| {
                let keep = cached.dirty || cached.pinned > 0 || (spare_used && cached.used) || excess == 0;
                cached.used &= !spare_used;
                excess -= usize::from(!keep);
                keep
            });
        }
    }
}

/// The sector that holds byte `offset`, and the position inside it.
pub fn locate(offset: u64) -> (u64, usize) {
    (offset - offset % SECTOR, (offset % SECTOR) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dirty_and_pinned_sectors_survive_eviction() {
        let mut cache = SectorCache::default();
        let content = vec![1; SECTOR as usize];
        cache.insert(0, &content);
        assert!(cache.modify(0, true, |data| data[0] = 9));
        for sector in 1..3 * CAPACITY as u64 {
            cache.insert(sector * SECTOR, &content);
        }
        assert!(cache.sectors.len() <= CAPACITY);
        assert_eq!(cache.get(0).unwrap()[0], 9);
        let batch = cache.take_dirty();
        assert!(batch.barrier && batch.sectors.len() == 1 && cache.dirty_count() == 0);
        cache.give_back(&batch);
        assert!(cache.dirty_count() == 1 && cache.take_dirty().barrier);
    }
}
