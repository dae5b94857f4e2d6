//! Which layer of a chain owns which bytes, cached per granule: lookups cost the same at any depth.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;

/// Bytes of disk that one cache entry describes.
pub(crate) const GRANULE: u64 = 2 << 20;
/// Unit of ownership.
const SECTOR: u64 = 512;
/// Budget of the whole cache, in runs (8 bytes each); an entry costs some runs more.
const MAX_WEIGHT: usize = 2 << 20;
const ENTRY_WEIGHT: usize = 12;

/// Owner "no layer": reads as zeros.
pub(crate) const NOBODY: u16 = u16::MAX;

/// From this sector of the granule on, up to the next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: u32,
    owner: u16,
}

struct Entry {
    runs: Vec<Run>,
    used: Cell<bool>,
}

/// The cache. Entries are built by the stack, updated by its writes, dropped by age.
#[derive(Default)]
pub(crate) struct Owners {
    entries: RefCell<HashMap<u64, Entry>>,
    clock: RefCell<VecDeque<u64>>,
    weight: Cell<usize>,
    /// Counts changes of ownership: an entry that was being built meanwhile may be stale.
    generation: Cell<u64>,
}

impl Owners {
    /// The one owner of all of `range`; None = not cached, several, or not in one granule.
    pub(crate) fn single(&self, range: &Range<u64>) -> Option<u16> {
        if range.start / GRANULE != (range.end - 1) / GRANULE {
            return None;
        }
        let entries = self.entries.borrow();
        let entry = entries.get(&(range.start / GRANULE))?;
        entry.used.set(true);
        let (first, last) = sectors(range);
        let index = entry.runs.partition_point(|run| run.start <= first).checked_sub(1)?;
        let ends = entry.runs.get(index + 1).is_none_or(|next| next.start >= last);
        ends.then_some(entry.runs[index].owner)
    }

    /// The owners of `range`, which lies in one granule: (bytes, owner) in order; None = not cached.
    pub(crate) fn get(&self, range: &Range<u64>) -> Option<Vec<(u64, u16)>> {
        let entries = self.entries.borrow();
        let entry = entries.get(&(range.start / GRANULE))?;
        entry.used.set(true);
        let (first, last) = sectors(range);
        let mut index = entry.runs.partition_point(|run| run.start <= first).checked_sub(1)?;
        let mut out = Vec::with_capacity(1);
        let mut at = first;
        while at < last {
            let run = entry.runs.get(index)?;
            let end = entry.runs.get(index + 1).map_or(last, |next| next.start.min(last));
            out.push((u64::from(end - at) * SECTOR, run.owner));
            at = end;
            index += 1;
        }
        Some(out)
    }

    /// To be taken before an entry is built, and given to [`Owners::store`].
    pub(crate) fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Stores what was built, unless ownership changed since. `owners` covers the granule from its start.
    pub(crate) fn store(&self, granule: u64, owners: &[(u64, u16)], generation: u64) {
        if generation != self.generation.get() {
            return;
        }
        let mut runs: Vec<Run> = Vec::with_capacity(owners.len());
        let mut at = 0u64;
        for &(len, owner) in owners {
            if runs.last().is_none_or(|run| run.owner != owner) {
                runs.push(Run { start: (at / SECTOR) as u32, owner });
            }
            at += len;
        }
        self.weight.set(self.weight.get() + runs.len() + ENTRY_WEIGHT);
        let entry = Entry { runs, used: Cell::new(true) };
        if let Some(old) = self.entries.borrow_mut().insert(granule, entry) {
            self.weight.set(self.weight.get() - old.runs.len() - ENTRY_WEIGHT);
        } else {
            self.clock.borrow_mut().push_back(granule);
        }
        self.evict();
    }

    /// Records that `owner` now owns `range`.
    pub(crate) fn set(&self, range: &Range<u64>, owner: u16) {
        self.changed();
        for part in granules(range) {
            let granule = part.start / GRANULE;
            let mut entries = self.entries.borrow_mut();
            let Some(entry) = entries.get_mut(&granule) else { continue };
            let before = entry.runs.len();
            let (first, last) = sectors(&part);
            paint(&mut entry.runs, first, last, owner);
            self.weight.set(self.weight.get() + entry.runs.len() - before);
        }
    }

    /// Forgets what is known about `range`.
    pub(crate) fn forget(&self, range: &Range<u64>) {
        self.changed();
        for part in granules(range) {
            let granule = part.start / GRANULE;
            if let Some(entry) = self.entries.borrow_mut().remove(&granule) {
                self.weight.set(self.weight.get() - entry.runs.len() - ENTRY_WEIGHT);
                // The clock finds it gone.
            }
        }
        self.drop_dead_hands();
    }

    /// Forgets everything (the layers changed).
    pub(crate) fn clear(&self) {
        self.entries.borrow_mut().clear();
        self.clock.borrow_mut().clear();
        self.weight.set(0);
        self.changed();
    }

    fn changed(&self) {
        self.generation.set(self.generation.get() + 1);
    }

    fn evict(&self) {
        let mut clock = self.clock.borrow_mut();
        let mut entries = self.entries.borrow_mut();
        while self.weight.get() > MAX_WEIGHT {
            let Some(granule) = clock.pop_front() else { return };
            let Some(entry) = entries.get(&granule) else { continue };
            if entry.used.take() {
                clock.push_back(granule);
                continue;
            }
            self.weight.set(self.weight.get() - entry.runs.len() - ENTRY_WEIGHT);
            entries.remove(&granule);
        }
    }

    fn drop_dead_hands(&self) {
        let entries = self.entries.borrow();
        let mut clock = self.clock.borrow_mut();
        if clock.len() > 2 * entries.len() + 64 {
            let mut seen = HashSet::new();
            clock.retain(|granule| entries.contains_key(granule) && seen.insert(*granule));
        }
    }
}

/// Cuts a range at granule borders.
pub(crate) fn granules(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let (mut at, end) = (range.start, range.end);
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let stop = ((at / GRANULE + 1) * GRANULE).min(end);
            let part = at..stop;
            at = stop;
            part
        })
    })
}

/// First and last (exclusive) sector inside the granule of a range that lies in it.
fn sectors(range: &Range<u64>) -> (u32, u32) {
    let base = range.start / GRANULE * GRANULE;
    (((range.start - base) / SECTOR) as u32, ((range.end - base) / SECTOR) as u32)
}

/// Sets the owner of sectors `[first, last)` in a sorted list of runs that starts at sector 0.
fn paint(runs: &mut Vec<Run>, first: u32, last: u32, owner: u16) {
    let from = runs.partition_point(|run| run.start < first);
    let to = runs.partition_point(|run| run.start <= last);
    // Who owned the sector just behind the painted part, and just before it.
    let behind = to.checked_sub(1).map(|index| runs[index].owner);
    let before = from.checked_sub(1).map(|index| runs[index].owner);
    let mut fresh = Vec::with_capacity(2);
    if before != Some(owner) {
        fresh.push(Run { start: first, owner });
    }
    let end = (GRANULE / SECTOR) as u32;
    if let Some(behind) = behind
        && behind != owner
        && last < end
    {
        fresh.push(Run { start: last, owner: behind });
    }
    runs.splice(from..to, fresh);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::XorShift;

    #[test]
    fn painted_runs_equal_a_plain_array() {
        let mut random = XorShift::new(7);
        let owners = Owners::default();
        let sectors = (GRANULE / SECTOR) as usize;
        let mut model = vec![3u16; sectors];
        owners.store(5, &[(GRANULE, 3)], 0);
        for round in 0..2000 {
            let first = random.below(sectors as u64);
            let last = first + 1 + random.below((sectors as u64 - first).min(40));
            let owner = random.below(3) as u16;
            owners.set(&(5 * GRANULE + first * 512..5 * GRANULE + last.min(sectors as u64) * 512), owner);
            model[first as usize..last.min(sectors as u64) as usize].fill(owner);
            if round % 50 == 0 {
                let got = owners.get(&(5 * GRANULE..6 * GRANULE)).unwrap();
                let flat: Vec<u16> =
                    got.iter().flat_map(|(len, owner)| std::iter::repeat_n(*owner, (*len / 512) as usize)).collect();
                assert_eq!(flat, model);
            }
        }
    }

    #[test]
    fn a_write_during_the_build_keeps_the_result_out() {
        let owners = Owners::default();
        let before = owners.generation();
        owners.set(&(512..1024), 0);
        owners.store(0, &[(GRANULE, 1)], before);
        assert_eq!(owners.get(&(0..512)), None);
        owners.store(0, &[(GRANULE, 1)], owners.generation());
        assert_eq!(owners.get(&(0..1024)), Some(vec![(1024, 1)]));
    }

    #[test]
    fn memory_is_bounded() {
        let owners = Owners::default();
        let worst: Vec<(u64, u16)> = (0..GRANULE / SECTOR).map(|n| (SECTOR, (n % 2) as u16)).collect();
        for granule in 0..2000 {
            owners.store(granule, &worst, 0);
        }
        assert!(owners.weight.get() <= MAX_WEIGHT);
        assert!(owners.entries.borrow().len() < 600);
    }
}
