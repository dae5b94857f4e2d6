//! Power-cut tests: a disk whose sectors tell which operation wrote them, so that what a cut leaves can be judged.

use super::*;
use bulkhead_disk::test_support::{PowerCut, Recorded, RecordingFile};
use bulkhead_vhdx::check::{CheckOptions, check};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

const SECTOR: u64 = 512;
const ZEROS: [u8; SECTOR as usize] = [0; SECTOR as usize];

type Allowed = Rc<BTreeMap<u64, Vec<u64>>>;

/// One operation: which sectors, and how many changes the file had seen when it began. Its id is its index + 1.
struct Op {
    sectors: Range<u64>,
    began: usize,
    kind: OpKind,
}

#[derive(Clone, Copy, PartialEq)]
enum OpKind {
    Write,
    Zero,
    /// Leaves zeros or what was there.
    Discard,
}

/// Runs operations on a recorded image and remembers what a reader may see after a cut.
pub struct Crash {
    pub file: Rc<RecordingFile>,
    pub parents: Vec<MemoryFile>,
    ops: Vec<Op>,
    /// At each flush that was acknowledged: changes of the file, operations before it.
    flushes: Vec<(usize, usize)>,
    /// Operations that count as the beginning: written to the parent, or before the recording.
    first: usize,
    /// What the last asked cut allows.
    last_allowed: RefCell<Option<(usize, Allowed)>>,
}

fn is_stamp(found: &[u8], id: u64, sector: u64) -> bool {
    let stamp = [id.to_le_bytes(), sector.to_le_bytes()];
    found.chunks_exact(16).all(|chunk| chunk[..8] == stamp[0] && chunk[8..] == stamp[1])
}

/// The content of a sector that operation `id` wrote.
pub fn stamp(id: u64, sector: u64) -> Vec<u8> {
    [id.to_le_bytes(), sector.to_le_bytes()].concat().repeat(SECTOR as usize / 16)
}

impl Crash {
    /// Records from here on; `base` is durable.
    pub fn new(base: MemoryFile, parents: Vec<MemoryFile>) -> Self {
        let file = Rc::new(RecordingFile::new(base));
        Self { file, parents, ops: Vec::new(), flushes: vec![(0, 0)], first: 0, last_allowed: RefCell::default() }
    }

    /// The image over its parents as a disk.
    pub fn disk_of(&self, image: &Vhdx) -> Stack {
        let mut layers: Vec<Rc<dyn Layer>> = vec![Rc::new(image.clone())];
        layers.extend(self.parents.iter().map(|file| Rc::new(open_read_only(file)) as Rc<dyn Layer>));
        Stack::new(layers)
    }

    /// A finished session on another file comes first: its operations are the ground that this one stands on.
    pub fn stand_on(&mut self, below: &Self) {
        for op in &below.ops {
            self.ops.push(Op { sectors: op.sectors.clone(), began: 0, kind: op.kind });
        }
        self.first = self.ops.len();
        self.flushes = vec![(0, self.first)];
    }

    pub fn write(&mut self, disk: &Stack, sectors: Range<u64>) {
        self.begin(sectors.clone(), OpKind::Write);
        let id = self.ops.len() as u64;
        let data: Vec<u8> = sectors.clone().flat_map(|sector| stamp(id, sector)).collect();
        let request = Request::Write { offset: sectors.start * SECTOR, buffer: Buffer::copy_of(&data), fua: false };
        run_now(disk.run(request)).into_result().unwrap();
    }

    pub fn zero(&mut self, disk: &Stack, sectors: Range<u64>, discard: bool, may_unmap: bool) {
        self.begin(sectors.clone(), if discard { OpKind::Discard } else { OpKind::Zero });
        let range = sectors.start * SECTOR..sectors.end * SECTOR;
        let request =
            if discard { Request::Discard { range } } else { Request::WriteZeroes { range, may_unmap, fua: false } };
        run_now(disk.run(request)).into_result().unwrap();
    }

    pub fn flush(&mut self, disk: &Stack) {
        run_now(disk.run(Request::Flush)).into_result().unwrap();
        self.acknowledged();
    }

    /// Everything so far is promised to be durable.
    pub fn acknowledged(&mut self) {
        self.flushes.push((self.file.changes(), self.ops.len()));
    }

    fn begin(&mut self, sectors: Range<u64>, kind: OpKind) {
        self.ops.push(Op { sectors, began: self.file.changes(), kind });
    }

    /// For every sector that was touched: the ids that a reader may see after a cut at `cut` (0 = zeros).
    fn allowed(&self, cut: usize) -> Allowed {
        if let Some((known, allowed)) = &*self.last_allowed.borrow()
            && *known == cut
        {
            return Rc::clone(allowed);
        }
        let flushes = self.flushes.iter().filter(|(changes, _)| *changes <= cut);
        let promised = flushes.map(|(_, ops)| *ops).max().unwrap_or(0);
        let mut allowed: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (index, op) in self.ops.iter().enumerate().filter(|(_, op)| op.began <= cut) {
            let id = if op.kind == OpKind::Write { index as u64 + 1 } else { 0 };
            for sector in op.sectors.clone() {
                let ids = allowed.entry(sector).or_insert_with(|| vec![0]);
                // What was promised replaces what was before.
                if index < promised && op.kind != OpKind::Discard {
                    ids.clear();
                }
                if ids.last() != Some(&id) {
                    ids.push(id);
                }
            }
        }
        let allowed = Rc::new(allowed);
        *self.last_allowed.borrow_mut() = Some((cut, Rc::clone(&allowed)));
        allowed
    }

    /// Judges the disk `disk`, which a cut at `cut` left.
    pub fn judge(&self, disk: &Stack, cut: usize, what: &str) {
        let allowed = self.allowed(cut);
        let size = disk.facts().size;
        let (mut piece, mut from) = (Vec::new(), 0);
        for (sector, ids) in allowed.iter().filter(|(sector, _)| (*sector + 1) * SECTOR <= size) {
            let at = sector * SECTOR;
            if at < from || at >= from + piece.len() as u64 {
                from = at;
                piece = run_now(read_bytes(disk, at, (size - at).min(256 * SECTOR) as usize)).unwrap();
            }
            let found = &piece[(at - from) as usize..][..SECTOR as usize];
            let fits = |id: &u64| if *id == 0 { found == ZEROS } else { is_stamp(found, *id, *sector) };
            assert!(ids.iter().any(fits), "{what}: sector {sector} holds {:?}, allowed are {ids:?}", &found[..16]);
        }
    }

    /// Opens what the cut left, checks it, judges its content.
    pub fn survive(&self, left: MemoryFile, cut: usize, what: &str) -> MemoryFile {
        let file = Rc::new(left);
        let options = CheckOptions { repair: true, drop_damaged_blocks: false, new_guid: guids(77) };
        let read_only = self.disk_of(&open_read_only(&file));
        self.judge(&read_only, cut, what);
        let report =
            run_now(check(Rc::clone(&file) as Rc<dyn File>, options)).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(report.is_clean(), "{what}: {report:?}");
        let disk = self.disk_of(&open(Rc::clone(&file) as Rc<dyn File>, 78).image);
        self.judge(&disk, cut, what);
        (*file).clone()
    }

    /// Every prefix of the changes, with several ways for the unflushed ones to get lost. `judge` sees each.
    pub fn cut_everywhere(&self, mut judge: impl FnMut(MemoryFile, usize, &str)) {
        let long = std::env::var_os("BULKHEAD_LONG").is_some();
        let mut random = XorShift::new(5);
        let log = self.file.log();
        for cut in 0..=self.file.changes() {
            let mut ways = vec![PowerCut::LoseAll, PowerCut::KeepAll];
            for _ in 0..if long { 40 } else { 2 } {
                ways.push(PowerCut::Torn { seed: random.next_u64() });
            }
            ways.push(PowerCut::OnlyOne(random.below(64) as usize));
            // The most telling, right before a flush: one payload write missing behind a log entry that arrived.
            let before_flush = log.get(cut) == Some(&Recorded::Flush);
            ways.extend((0..if long || before_flush { 12 } else { 1 }).map(PowerCut::AllButOne));
            for way in ways {
                let what = format!("power cut after change {cut} of {}, {way:?}", self.file.changes());
                judge(self.file.after_cut(cut, way), cut, &what);
            }
        }
    }
}
