//! Our own use of the log: a ring of entries with head and tail. Makes bytes, does no I/O.

use crate::format::SECTOR;
use crate::format::log_entry::{self, EntryHeader, sectors_for};
use std::collections::VecDeque;
use uuid::Uuid;

/// Batches beyond this cost more memory than they save flushes.
const MAX_BATCH: usize = 512;

/// Bytes to write, and where in the file: an entry that wraps has two parts.
pub type Parts = Vec<(u64, Vec<u8>)>;

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u64,
    length: u64,
    /// Its sectors are at their place (not necessarily durably).
    applied: bool,
}

/// The ring. An entry's space is reused only when a later durable entry says, by its tail, that it is not needed: were it
/// overwritten earlier, a torn write would leave a log without any complete sequence.
#[derive(Debug)]
pub struct LogRing {
    guid: Uuid,
    offset: u64,
    length: u64,
    next_sequence: u64,
    head: u64,
    /// From the tail that the last durable entry records up to the head.
    entries: VecDeque<Entry>,
    /// How many of the oldest entries are durably in their place.
    retired: usize,
    /// How many of them the entry that was appended last leaves behind its tail.
    left_behind: usize,
}

impl LogRing {
    /// An empty ring over the log region; `guid` separates its entries from whatever the region holds.
    pub fn new(guid: Uuid, offset: u64, length: u64) -> Self {
        Self { guid, offset, length, next_sequence: 1, head: 0, entries: VecDeque::new(), retired: 0, left_behind: 0 }
    }

    /// How many sectors one entry may carry in a log of `length` bytes: two such entries fit, and an empty one.
    pub fn batch_limit(length: u64) -> usize {
        let half = (length / SECTOR / 2) as usize;
        (half - 4 - half / 100).min(MAX_BATCH)
    }

    /// Whether an entry of `count` sectors can be appended, with room for an empty one after it.
    pub fn fits(&self, count: usize) -> bool {
        let used: u64 = self.entries.iter().map(|entry| entry.length).sum();
        used + (sectors_for(count) as u64 + 1) * SECTOR <= self.length
    }

    /// Adds an entry that overwrites `sectors`; an empty one only moves the tail.
    pub fn append(&mut self, sectors: &[(u64, Box<[u8]>)], flushed: u64, last: u64) -> Parts {
        let tail = self.entries.get(self.retired).map_or(self.head, |entry| entry.start);
        let header = EntryHeader {
            length: 0,
            tail: tail as u32,
            sequence: self.next_sequence,
            descriptors: 0,
            log_guid: self.guid,
            flushed_file_offset: flushed,
            last_file_offset: last,
        };
        let sectors: Vec<(u64, &[u8])> = sectors.iter().map(|(offset, data)| (*offset, &data[..])).collect();
        let bytes = log_entry::encode(header, &sectors);
        let (start, length) = (self.head, bytes.len() as u64);
        self.entries.push_back(Entry { start, length, applied: sectors.is_empty() });
        self.left_behind = self.retired;
        self.next_sequence += 1;
        self.head = (start + length) % self.length;
        self.place(start, bytes)
    }

    /// Takes back the entry that was appended last: its bytes did not get to the file.
    pub fn withdraw(&mut self) {
        if let Some(entry) = self.entries.pop_back() {
            self.head = entry.start;
            self.next_sequence -= 1;
            self.left_behind = 0;
        }
    }

    /// The entry that was appended last is durable: what its tail leaves behind is free.
    pub fn set_durable(&mut self) {
        let count = std::mem::take(&mut self.left_behind);
        self.entries.drain(..count);
        self.retired -= count;
    }

    /// The oldest entry that was not yet, has been written to its place.
    pub fn set_applied(&mut self) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| !entry.applied) {
            entry.applied = true;
        }
    }

    /// Position behind the applied entries; a flush that starts later makes what lies before it unnecessary.
    pub fn applied(&self) -> usize {
        self.entries.iter().take_while(|entry| entry.applied).count()
    }

    /// The first `count` entries are durably in their place.
    pub fn retire(&mut self, count: usize) {
        self.retired = self.retired.max(count.min(self.entries.len()));
    }

    fn place(&self, start: u64, mut bytes: Vec<u8>) -> Parts {
        let to_end = (self.length - start) as usize;
        if bytes.len() <= to_end {
            return vec![(self.offset + start, bytes)];
        }
        let rest = bytes.split_off(to_end);
        vec![(self.offset + start, bytes), (self.offset, rest)]
    }
}
