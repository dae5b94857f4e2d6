//! Finding the active sequence of a log, and the changes that its replay makes (MS-VHDX 2.3.3).

use super::header::Header;
use super::log_entry::{Change, EntryHeader, parse, parse_header};
use super::{FormatError, REGION_TABLE_OFFSETS, SECTOR};
use std::collections::{BTreeMap, HashMap};

/// A dirty log that is larger than this is refused: we would have to read all of it.
pub const MAX_DIRTY_LOG: u32 = 64 << 20;
/// Checksummed bytes per byte of log; an honest log stays below 3, a hostile one wants the square of its length.
const CHECKSUM_BUDGET: u64 = 16;
/// Above any file that a 64 TiB disk can need.
const MAX_FILE: u64 = 1 << 47;
const STRUCTURE: &str = "log";

/// What replay must do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    /// New contents by file offset (multiples of 4 KiB): the last entry that touches a sector wins.
    pub sectors: BTreeMap<u64, Box<[u8]>>,
    /// Ranges to fill with zeros before the sectors are written: offset → length, disjoint.
    pub zeros: BTreeMap<u64, u64>,
    /// The file must be at least this long afterwards.
    pub file_size: u64,
    /// Number of entries replayed.
    pub entries: usize,
    /// Sequence number of the last entry.
    pub last_sequence: u64,
}

/// Finds the active sequence in `log` (the whole log region, as `header` describes it) and folds it into one change set.
///
/// `file_size` is the present size of the file: a file shorter than the log says is refused as truncated.
pub fn replay(log: &[u8], header: &Header, file_size: u64) -> Result<Replay, FormatError> {
    let scanner = Scanner { log, header, valid: HashMap::new(), budget: log.len() as u64 * CHECKSUM_BUDGET };
    let active = scanner.active_sequence()?;
    let Some((_, last)) = active.last() else {
        let problem = "the header says that it is in use, but it holds no complete sequence of entries";
        return Err(FormatError::damaged(STRUCTURE, problem));
    };
    if last.last_file_offset > MAX_FILE {
        let problem = format!("it wants a file of {} bytes", last.last_file_offset);
        return Err(FormatError::damaged(STRUCTURE, problem));
    }
    if file_size < last.flushed_file_offset {
        let problem = format!("the file has {file_size} bytes, the log says {}: truncated", last.flushed_file_offset);
        return Err(FormatError::damaged(STRUCTURE, problem));
    }
    let first = active.iter().position(|(position, _)| *position == u64::from(last.tail)).unwrap_or(0);
    let mut result = Replay { file_size: last.last_file_offset, last_sequence: last.sequence, ..Replay::default() };
    for (position, entry) in &active[first..] {
        let bytes = circular(log, *position, u64::from(entry.length));
        let changes = parse(&bytes, entry).ok_or_else(|| FormatError::damaged(STRUCTURE, "an entry changed"))?;
        for change in changes {
            result.fold(change, header)?;
        }
        result.entries += 1;
    }
    let reached = [result.sectors.keys().next_back().map(|at| at + SECTOR), result.zeros_end()];
    result.file_size = reached.into_iter().flatten().fold(result.file_size, u64::max);
    Ok(result)
}

impl Replay {
    /// Adds a change behind the earlier ones.
    fn fold(&mut self, change: Change<'_>, header: &Header) -> Result<(), FormatError> {
        let (offset, length) = match change {
            Change::Data { offset, .. } => (offset, SECTOR),
            Change::Zero { offset, length } => (offset, length),
        };
        let end = offset.saturating_add(length);
        let log_end = header.log_offset + u64::from(header.log_length);
        if offset < REGION_TABLE_OFFSETS[0] || (offset < log_end && end > header.log_offset) || end > MAX_FILE {
            let problem = format!("an entry overwrites {length} bytes at {offset:#x} (headers, or the log itself)");
            return Err(FormatError::damaged(STRUCTURE, problem));
        }
        match change {
            Change::Data { leading, middle, trailing, .. } => {
                self.sectors.insert(offset, [leading, middle, trailing].concat().into_boxed_slice());
            }
            Change::Zero { .. } => {
                let covered: Vec<u64> = self.sectors.range(offset..end).map(|(at, _)| *at).collect();
                for at in covered {
                    self.sectors.remove(&at);
                }
                self.add_zeros(offset, end);
            }
        }
        Ok(())
    }

    /// Unites `start..end` with the zero ranges that it touches, so that they stay disjoint.
    fn add_zeros(&mut self, mut start: u64, mut end: u64) {
        if start == end {
            return;
        }
        while let Some((at, length)) = self.zeros.range(..=end).next_back().map(|(at, length)| (*at, *length)) {
            if at + length < start {
                break;
            }
            self.zeros.remove(&at);
            start = start.min(at);
            end = end.max(at + length);
        }
        self.zeros.insert(start, end - start);
    }

    fn zeros_end(&self) -> Option<u64> {
        self.zeros.iter().next_back().map(|(at, length)| at + length)
    }

    /// Applies the changes to `bytes`, which were read from file offset `offset` (a multiple of 4 KiB).
    pub fn patch(&self, offset: u64, bytes: &mut [u8]) {
        let end = offset + bytes.len() as u64;
        for (at, length) in self.zeros.range(..end) {
            let (from, to) = ((*at).max(offset), (at + length).min(end));
            if from < to {
                bytes[(from - offset) as usize..(to - offset) as usize].fill(0);
            }
        }
        for (at, content) in self.sectors.range(offset..end) {
            let from = (at - offset) as usize;
            let count = content.len().min(bytes.len() - from);
            bytes[from..from + count].copy_from_slice(&content[..count]);
        }
    }
}

type Found = Vec<(u64, EntryHeader)>;

/// Looks for runs of entries; remembers which positions hold a valid one.
struct Scanner<'a> {
    log: &'a [u8],
    header: &'a Header,
    valid: HashMap<u64, Option<EntryHeader>>,
    budget: u64,
}

impl Scanner<'_> {
    fn active_sequence(mut self) -> Result<Found, FormatError> {
        let length = self.log.len() as u64;
        let mut best = Found::new();
        let mut start = 0;
        while start < length {
            let run = self.run_from(start)?;
            let Some((position, last)) = run.last().copied() else {
                start += SECTOR;
                continue;
            };
            let complete = run.iter().any(|(at, _)| *at == u64::from(last.tail));
            let newest = best.last().map_or(0, |(_, entry)| entry.sequence);
            // Later starts inside of this run end at the same entry, so they cannot be better: go on behind it.
            // A run that began before the end of the log and wrapped to here is found again from its own start.
            let head = position + u64::from(last.length);
            if complete && last.sequence > newest {
                best = run;
            }
            if head <= start {
                // The run went over the end of the log to where the scan began.
                break;
            }
            start = head;
        }
        Ok(best)
    }

    /// Valid entries with ascending sequence numbers from `start` on, over the end of the log if need be.
    fn run_from(&mut self, start: u64) -> Result<Found, FormatError> {
        let length = self.log.len() as u64;
        let mut run = Found::new();
        let (mut position, mut used) = (start, 0);
        while let Some(entry) = self.entry_at(position)? {
            let expected = run.last().map(|(_, last): &(u64, EntryHeader)| last.sequence.checked_add(1));
            used += u64::from(entry.length);
            if expected.is_some_and(|sequence| sequence != Some(entry.sequence)) || used > length {
                break;
            }
            run.push((position, entry));
            position = (position + u64::from(entry.length)) % length;
        }
        Ok(run)
    }

    fn entry_at(&mut self, position: u64) -> Result<Option<EntryHeader>, FormatError> {
        if let Some(known) = self.valid.get(&position) {
            return Ok(*known);
        }
        let from = position as usize;
        let sector = &self.log[from..from + SECTOR as usize];
        let mut found = parse_header(sector, self.header.log_guid, self.log.len() as u64);
        if let Some(entry) = found {
            let length = u64::from(entry.length);
            self.budget = self.budget.checked_sub(length).ok_or_else(|| {
                FormatError::damaged(STRUCTURE, "entries overlap so much that it cannot come from a VHDX writer")
            })?;
            if parse(&circular(self.log, position, length), &entry).is_none() {
                found = None;
            }
        }
        self.valid.insert(position, found);
        Ok(found)
    }
}

/// `length` bytes from `position` on, over the end of the log if need be.
fn circular(log: &[u8], position: u64, length: u64) -> std::borrow::Cow<'_, [u8]> {
    let (from, length) = (position as usize, length as usize);
    let to_end = log.len() - from;
    if length <= to_end {
        (&log[from..from + length]).into()
    } else {
        [&log[from..], &log[..length - to_end]].concat().into()
    }
}
