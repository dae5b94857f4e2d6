//! Where the bytes of a chain are, cached per granule: lookups cost the same at any depth.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

/// Bytes of disk that one cache entry describes.
pub(crate) const GRANULE: u64 = 2 << 20;
/// Unit of ownership.
const SECTOR: u64 = 512;
/// Budget of the whole cache, in runs (16 bytes each); an entry costs some runs more.
const MAX_WEIGHT: usize = 1 << 20;
const ENTRY_WEIGHT: usize = 6;

/// Who has a run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The top layer. It is written, so only itself knows where its bytes are.
    Top,
    /// A layer below, in its file from this offset on. Layers below are only read: what is there stays there.
    Below {
        /// Index in the stack, not 0.
        layer: u16,
        /// File offset of the run's first byte.
        offset: u64,
    },
    /// No layer, or one that says so: reads as zeros.
    Zeros,
}

impl Owner {
    /// The owner of what follows `bytes` later in the same run.
    pub(crate) fn skip(self, bytes: u64) -> Self {
        match self {
            Self::Below { layer, offset } => Self::Below { layer, offset: offset + bytes },
            other => other,
        }
    }

    fn pack(self, start: u32) -> Run {
        let (layer, offset) = match self {
            Self::Top => (0, 0),
            Self::Below { layer, offset } => (layer, offset),
            Self::Zeros => (u16::MAX, 0),
        };
        Run { start, layer, offset }
    }
}

/// From this sector of the granule on, up to the next run: an [`Owner`] in 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: u32,
    layer: u16,
    offset: u64,
}

impl Run {
    /// The owner of the run from `sector` on, which is inside it.
    fn owner_at(self, sector: u32) -> Owner {
        let owner = match self.layer {
            0 => Owner::Top,
            u16::MAX => Owner::Zeros,
            layer => Owner::Below { layer, offset: self.offset },
        };
        owner.skip(u64::from(sector - self.start) * SECTOR)
    }
}

struct Entry {
    runs: Vec<Run>,
    used: Cell<bool>,
}

/// Spreads granule numbers. The standard hasher would cost more than all the rest of a lookup; who provokes collisions slows
/// down only the own disk, and the bounded cache bounds that too.
#[derive(Default)]
struct GranuleHasher(u64);

impl Hasher for GranuleHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, granule: u64) {
        let spread = u128::from(granule ^ 0x243F_6A88_85A3_08D3) * 0x9E37_79B9_7F4A_7C15;
        self.0 = (spread >> 64) as u64 ^ spread as u64;
    }
}

type Entries = HashMap<u64, Entry, BuildHasherDefault<GranuleHasher>>;

/// The cache. Entries are built by the stack, updated by its writes, dropped by age.
#[derive(Default)]
pub(crate) struct Owners {
    entries: RefCell<Entries>,
    clock: RefCell<VecDeque<u64>>,
    weight: Cell<usize>,
    /// Counts changes of ownership: an entry that was being built meanwhile may be stale.
    generation: Cell<u64>,
}

impl Owners {
    /// The one owner of all of `range`; None = not cached, several, or not in one granule.
    pub(crate) fn single(&self, range: &Range<u64>) -> Option<Owner> {
        if range.start / GRANULE != (range.end - 1) / GRANULE {
            return None;
        }
        let entries = self.entries.borrow();
        let entry = entries.get(&(range.start / GRANULE))?;
        entry.used.set(true);
        let (first, last) = sectors(range);
        let index = entry.runs.partition_point(|run| run.start <= first).checked_sub(1)?;
        let ends = entry.runs.get(index + 1).is_none_or(|next| next.start >= last);
        ends.then(|| entry.runs[index].owner_at(first))
    }

    /// The owners of `range`, which lies in one granule: (bytes, owner) in order; None = not cached.
    pub(crate) fn get(&self, range: &Range<u64>) -> Option<Vec<(u64, Owner)>> {
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
            out.push((u64::from(end - at) * SECTOR, run.owner_at(at)));
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
    pub(crate) fn store(&self, granule: u64, owners: &[(u64, Owner)], generation: u64) {
        if generation != self.generation.get() {
            return;
        }
        let mut runs: Vec<Run> = Vec::with_capacity(owners.len());
        let mut at = 0u64;
        for &(len, owner) in owners {
            let sector = (at / SECTOR) as u32;
            if runs.last().is_none_or(|run| run.owner_at(sector) != owner) {
                runs.push(owner.pack(sector));
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

    /// Records that the top layer now owns `range`.
    pub(crate) fn set_top(&self, range: &Range<u64>) {
        self.changed();
        for part in granules(range) {
            let granule = part.start / GRANULE;
            let mut entries = self.entries.borrow_mut();
            let Some(entry) = entries.get_mut(&granule) else { continue };
            let before = entry.runs.len();
            let (first, last) = sectors(&part);
            paint_top(&mut entry.runs, first, last);
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

/// Gives sectors `[first, last)` to the top layer, in a sorted list of runs that starts at sector 0.
fn paint_top(runs: &mut Vec<Run>, first: u32, last: u32) {
    let from = runs.partition_point(|run| run.start < first);
    let to = runs.partition_point(|run| run.start <= last);
    // Who owned the sector just before the painted part, and the one just behind it.
    let before = from.checked_sub(1).map(|index| runs[index].owner_at(first));
    let behind = to.checked_sub(1).map(|index| runs[index].owner_at(last));
    let mut fresh = Vec::with_capacity(2);
    if before != Some(Owner::Top) {
        fresh.push(Owner::Top.pack(first));
    }
    if let Some(behind) = behind
        && behind != Owner::Top
        && last < (GRANULE / SECTOR) as u32
    {
        fresh.push(behind.pack(last));
    }
    runs.splice(from..to, fresh);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::XorShift;

    fn below(layer: u16, offset: u64) -> Owner {
        Owner::Below { layer, offset }
    }

    #[test]
    fn painted_runs_equal_a_plain_array() {
        let mut random = XorShift::new(7);
        let owners = Owners::default();
        let sectors = GRANULE / SECTOR;
        // Three runs to begin with: in one layer, in another one, nowhere.
        let parts = [(1 << 20, below(3, 1 << 30)), (512 << 10, below(2, 4096)), (512 << 10, Owner::Zeros)];
        let mut model: Vec<Owner> = Vec::new();
        for (len, owner) in parts {
            model.extend((0..len / SECTOR).map(|sector| owner.skip(sector * SECTOR)));
        }
        owners.store(5, &parts, 0);
        for round in 0..400 {
            let first = random.below(sectors);
            let last = (first + 1 + random.below(12)).min(sectors);
            owners.set_top(&(5 * GRANULE + first * 512..5 * GRANULE + last * 512));
            model[first as usize..last as usize].fill(Owner::Top);
            if round % 20 == 0 {
                let mut flat: Vec<Owner> = Vec::new();
                for (len, owner) in owners.get(&(5 * GRANULE..6 * GRANULE)).unwrap() {
                    flat.extend((0..len / SECTOR).map(|sector| owner.skip(sector * SECTOR)));
                }
                assert!(flat == model, "round {round}");
            }
            let one = 5 * GRANULE + first * 512;
            assert_eq!(owners.single(&(one..one + 512)), Some(Owner::Top));
            let sector = random.below(sectors);
            let one = 5 * GRANULE + sector * 512;
            assert_eq!(owners.single(&(one..one + 512)), Some(model[sector as usize]));
        }
    }

    #[test]
    fn neighbours_are_one_run_only_where_their_places_touch() {
        let owners = Owners::default();
        let half = GRANULE / 2;
        owners.store(0, &[(half, below(1, 0)), (half, below(1, half))], 0);
        assert_eq!(owners.single(&(half - 512..half + 512)), Some(below(1, half - 512)));
        owners.store(0, &[(half, below(1, 0)), (half, below(1, 0))], 0);
        assert_eq!(owners.single(&(half - 512..half + 512)), None);
    }

    #[test]
    fn a_write_during_the_build_keeps_the_result_out() {
        let owners = Owners::default();
        let before = owners.generation();
        owners.set_top(&(512..1024));
        owners.store(0, &[(GRANULE, Owner::Zeros)], before);
        assert_eq!(owners.get(&(0..512)), None);
        owners.store(0, &[(GRANULE, Owner::Zeros)], owners.generation());
        assert_eq!(owners.get(&(0..1024)), Some(vec![(1024, Owner::Zeros)]));
    }

    #[test]
    fn memory_is_bounded() {
        let owners = Owners::default();
        let worst: Vec<(u64, Owner)> = (0..GRANULE / SECTOR).map(|n| (SECTOR, below(1, n % 2 * 4096))).collect();
        for granule in 0..1000 {
            owners.store(granule, &worst, 0);
        }
        assert!(owners.weight.get() <= MAX_WEIGHT && size_of::<Run>() == 16);
        assert!(owners.entries.borrow().len() < 300);
    }
}
