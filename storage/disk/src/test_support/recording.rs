//! A file in memory that records every change and flush, and can show what a power cut would leave.

use super::XorShift;
use crate::{Buffer, Completion, Durability, File, FileFacts, LocalFuture, MemoryFile, Result, run_now};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

/// The unit that storage writes atomically; everything larger may be torn.
const ATOM: u64 = 512;

/// One recorded change, in the order in which the format issued it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Bytes at an offset; `stable` = asked to be durable at once.
    Write {
        /// File offset.
        offset: u64,
        /// What was written.
        data: Vec<u8>,
        /// Force unit access.
        stable: bool,
    },
    /// Everything before is durable.
    Flush,
    /// File length changed.
    SetLen(u64),
    /// Space reserved up to the end of the range (extends the file).
    Allocate(Range<u64>),
    /// Range cleared (zero or punch).
    Clear(Range<u64>),
    /// A mark of the test: "everything up to here was promised".
    Mark(u64),
}

/// Which of the changes that were not yet flushed reached the disk before power went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerCut {
    /// None of them.
    LoseAll,
    /// All of them.
    KeepAll,
    /// Each 512-byte unit by itself with probability one half, in any order: torn and reordered.
    Torn {
        /// Seed of the choice.
        seed: u64,
    },
    /// Only the `n`-th pending change (modulo their number).
    OnlyOne(usize),
    /// All but the `n`-th pending change (modulo their number).
    AllButOne(usize),
}

/// The order of changes across several files.
#[derive(Clone, Default)]
pub struct Timeline(Rc<Cell<usize>>);

impl Timeline {
    /// Changes of all its files so far: the cut points are `0..=now()`.
    pub fn now(&self) -> usize {
        self.0.get()
    }
}

/// Records changes over a memory file.
pub struct RecordingFile {
    file: MemoryFile,
    base: MemoryFile,
    log: RefCell<Vec<Recorded>>,
    timeline: Timeline,
    /// When each change was made.
    times: RefCell<Vec<usize>>,
}

impl RecordingFile {
    /// Starts with the contents of `base`, which count as durable.
    pub fn new(base: MemoryFile) -> Self {
        Self::on(base, &Timeline::default())
    }

    /// The same, as one of several files.
    pub fn on(base: MemoryFile, timeline: &Timeline) -> Self {
        Self {
            file: base.clone(),
            base,
            log: RefCell::default(),
            timeline: timeline.clone(),
            times: RefCell::default(),
        }
    }

    /// How many of its changes came before a point of its timeline.
    pub fn changes_before(&self, time: usize) -> usize {
        self.times.borrow().partition_point(|made| *made < time)
    }

    fn push(&self, change: Recorded) {
        self.log.borrow_mut().push(change);
        self.times.borrow_mut().push(self.timeline.now());
        self.timeline.0.set(self.timeline.now() + 1);
    }

    /// Changes so far.
    pub fn log(&self) -> Vec<Recorded> {
        self.log.borrow().clone()
    }

    /// Number of changes so far: the cut points are `0..=changes()`.
    pub fn changes(&self) -> usize {
        self.log.borrow().len()
    }

    /// Number of flushes so far.
    pub fn flushes(&self) -> usize {
        self.log.borrow().iter().filter(|change| **change == Recorded::Flush).count()
    }

    /// Adds a mark (for example: the guest's flush number `n` was acknowledged here).
    pub fn mark(&self, n: u64) {
        self.push(Recorded::Mark(n));
    }

    /// The last mark before the cut point.
    pub fn last_mark(&self, cut: usize) -> Option<u64> {
        self.log.borrow()[..cut].iter().rev().find_map(|change| match change {
            Recorded::Mark(n) => Some(*n),
            _ => None,
        })
    }

    /// The file as a power cut after the first `cut` changes leaves it.
    pub fn after_cut(&self, cut: usize, how: PowerCut) -> MemoryFile {
        let log = self.log.borrow();
        let log = &log[..cut.min(log.len())];
        let flushed = log.iter().rposition(|change| *change == Recorded::Flush).map_or(0, |index| index + 1);
        let file = self.base.clone();
        for change in &log[..flushed] {
            apply(&file, change);
        }
        let pending: Vec<&Recorded> =
            log[flushed..].iter().filter(|change| !matches!(change, Recorded::Mark(_))).collect();
        apply_pending(&file, &pending, how);
        file
    }
}

fn apply_pending(file: &MemoryFile, pending: &[&Recorded], how: PowerCut) {
    let count = pending.len().max(1);
    let mut random = XorShift::new(match how {
        PowerCut::Torn { seed } => seed,
        _ => 0,
    });
    for (index, change) in pending.iter().enumerate() {
        let stable = matches!(change, Recorded::Write { stable: true, .. });
        let keep = match how {
            PowerCut::LoseAll => stable,
            PowerCut::KeepAll => true,
            PowerCut::OnlyOne(n) => stable || index == n % count,
            PowerCut::AllButOne(n) => stable || index != n % count,
            PowerCut::Torn { .. } if stable => true,
            PowerCut::Torn { .. } => {
                tear(file, change, &mut random);
                continue;
            }
        };
        if keep {
            apply(file, change);
        }
    }
}

/// Applies a random subset of the 512-byte units of a change.
fn tear(file: &MemoryFile, change: &Recorded, random: &mut XorShift) {
    match change {
        Recorded::Write { offset, data, .. } => {
            let mut at = 0;
            while at < data.len() {
                let to_border = (ATOM - (offset + at as u64) % ATOM) as usize;
                let end = (at + to_border).min(data.len());
                if random.one_in(2) {
                    file.poke(offset + at as u64, &data[at..end]);
                }
                at = end;
            }
        }
        other if random.one_in(2) => apply(file, other),
        _ => {}
    }
}

fn apply(file: &MemoryFile, change: &Recorded) {
    match change {
        Recorded::Write { offset, data, .. } => file.poke(*offset, data),
        Recorded::SetLen(len) => drop(run_now(file.set_len(*len))),
        Recorded::Allocate(range) => drop(run_now(file.allocate(range.clone()))),
        Recorded::Clear(range) => {
            let end = range.end.min(file.len());
            drop(run_now(file.punch(range.start.min(end)..end)));
        }
        Recorded::Flush | Recorded::Mark(_) => {}
    }
}

impl RecordingFile {
    fn record<T>(&self, result: &Result<T>, change: Recorded) {
        if result.is_ok() {
            self.push(change);
        }
    }
}

impl File for RecordingFile {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn facts(&self) -> FileFacts {
        self.file.facts()
    }

    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read(&self, offset: u64, buffer: Buffer) -> LocalFuture<'_, Completion> {
        self.file.read(offset, buffer)
    }

    fn write(&self, offset: u64, buffer: Buffer, durability: Durability) -> LocalFuture<'_, Completion> {
        Box::pin(async move {
            let mut data = vec![0; buffer.len()];
            buffer.copy_to(0, &mut data);
            let completion = self.file.write(offset, buffer, durability).await;
            let stable = durability == Durability::Stable;
            self.record(&completion.result, Recorded::Write { offset, data, stable });
            completion
        })
    }

    fn flush(&self) -> LocalFuture<'_, Result<()>> {
        Box::pin(async {
            self.push(Recorded::Flush);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> LocalFuture<'_, Result<()>> {
        Box::pin(async move {
            let result = self.file.set_len(len).await;
            self.record(&result, Recorded::SetLen(len));
            result
        })
    }

    fn allocate(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        Box::pin(async move {
            let result = self.file.allocate(range.clone()).await;
            self.record(&result, Recorded::Allocate(range));
            result
        })
    }

    fn zero_range(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        Box::pin(async move {
            let result = self.file.zero_range(range.clone()).await;
            self.record(&result, Recorded::Clear(range));
            result
        })
    }

    fn punch(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        Box::pin(async move {
            let result = self.file.punch(range.clone()).await;
            self.record(&result, Recorded::Clear(range));
            result
        })
    }

    fn data_after(&self, offset: u64) -> LocalFuture<'_, Result<Option<Range<u64>>>> {
        self.file.data_after(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write_vec;

    #[test]
    fn cuts_lose_only_what_was_not_flushed() {
        let file = RecordingFile::new(MemoryFile::new("t"));
        run_now(write_vec(&file, 0, &[1; 1024])).unwrap();
        run_now(file.flush()).unwrap();
        file.mark(1);
        run_now(write_vec(&file, 256, &[2; 1024])).unwrap();
        run_now(file.write(0, Buffer::copy_of(&[3; 16]), Durability::Stable)).into_result().unwrap();
        assert_eq!((file.changes(), file.flushes(), file.last_mark(5)), (5, 1, Some(1)));
        assert_eq!(file.after_cut(1, PowerCut::LoseAll).len(), 0);
        let lost = file.after_cut(5, PowerCut::LoseAll).to_vec();
        assert_eq!((lost.len(), lost[0], lost[300]), (1024, 3, 1));
        assert_eq!(file.after_cut(5, PowerCut::KeepAll).to_vec(), file.file.to_vec());
        // Torn at 512-byte borders of the file, never inside.
        for seed in 0..50 {
            let torn = file.after_cut(4, PowerCut::Torn { seed }).to_vec();
            assert!(torn[256..512].iter().all(|byte| *byte == torn[256]));
            assert!(torn[512..1024].iter().all(|byte| *byte == torn[512]));
        }
    }
}
