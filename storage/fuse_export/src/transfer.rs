//! Any byte range on a disk of sectors. Aligned transfers run side by side; a write that covers parts of sectors is alone
//! on the disk while it reads, changes and writes them, since it would undo a write that runs at the same time.

use std::ops::Range;
use std::sync::Arc;

use bulkhead_disk::{Buffer, Completion, Disk, DiskError, Request, Result, StatusExtent};
use crossbeam_channel::bounded;
use parking_lot::{Condvar, Mutex};

/// A disk and its writes in flight.
#[derive(Clone)]
pub struct Transfers {
    pub disk: Arc<dyn Disk>,
    writes: Arc<InFlight>,
}

#[derive(Default)]
struct InFlight {
    count: Mutex<usize>,
    none: Condvar,
}

impl Transfers {
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, writes: Arc::default() }
    }

    fn sector(&self) -> u64 {
        u64::from(self.disk.facts().logical_sector.max(1))
    }

    /// The smallest range of whole sectors around `range`.
    fn around(&self, range: &Range<u64>) -> Range<u64> {
        let sector = self.sector();
        range.start / sector * sector..range.end.next_multiple_of(sector)
    }

    /// Reads; `done` may run on another thread.
    pub fn read(&self, range: Range<u64>, done: impl FnOnce(Result<Vec<u8>>) + Send + 'static) {
        let whole = self.around(&range);
        let (skip, len) = ((range.start - whole.start) as usize, (range.end - range.start) as usize);
        let buffer = Buffer::zeroed((whole.end - whole.start) as usize);
        let finish = move |completion: Completion| {
            done(completion.into_result().map(|buffer| {
                let mut bytes = buffer.to_vec();
                bytes.drain(..skip);
                bytes.truncate(len);
                bytes
            }));
        };
        self.disk.submit(Request::Read { offset: whole.start, buffer }, Box::new(finish));
    }

    /// Writes; `done` may run on another thread.
    pub fn write(&self, offset: u64, data: &[u8], done: impl FnOnce(Result<()>) + Send + 'static) {
        let range = offset..offset + data.len() as u64;
        let whole = self.around(&range);
        if whole == range {
            return self.change(Request::Write { offset, buffer: Buffer::copy_of(data), fua: false }, done);
        }
        let mut count = self.writes.count.lock();
        while *count > 0 {
            self.writes.none.wait(&mut count);
        }
        let result = self.wait_for_read(whole.clone()).and_then(|mut bytes| {
            let skip = (offset - whole.start) as usize;
            bytes[skip..skip + data.len()].copy_from_slice(data);
            let buffer = Buffer::copy_of(&bytes);
            self.wait(Request::Write { offset: whole.start, buffer, fua: false }).result
        });
        drop(count);
        done(result);
    }

    /// Runs a request that changes the disk.
    pub fn change(&self, request: Request, done: impl FnOnce(Result<()>) + Send + 'static) {
        *self.writes.count.lock() += 1;
        let writes = self.writes.clone();
        let finish = move |completion: Completion| {
            let mut count = writes.count.lock();
            *count -= 1;
            if *count == 0 {
                writes.none.notify_all();
            }
            drop(count);
            done(completion.result);
        };
        self.disk.submit(request, Box::new(finish));
    }

    /// Makes everything durable that was written before.
    pub fn flush(&self, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.disk.submit(Request::Flush, Box::new(move |completion| done(completion.result)));
    }

    /// What a range holds.
    pub fn status(&self, range: Range<u64>) -> Result<Vec<StatusExtent>> {
        let (told, answer) = bounded(1);
        // The receiver waits below.
        self.disk.submit_status(range, Box::new(move |extents| drop(told.send(extents))));
        answer.recv().unwrap_or_else(|_| Err(gone()))
    }

    fn wait_for_read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let buffer = Buffer::zeroed((range.end - range.start) as usize);
        let completion = self.wait(Request::Read { offset: range.start, buffer });
        completion.into_result().map(|buffer| buffer.to_vec())
    }

    fn wait(&self, request: Request) -> Completion {
        let (told, answer) = bounded(1);
        self.disk.submit(request, Box::new(move |completion| drop(told.send(completion))));
        answer.recv().unwrap_or_else(|_| Completion::from_result(Err(gone())))
    }
}

fn gone() -> DiskError {
    DiskError::new(bulkhead_disk::ErrorKind::Cancelled, "use the disk", "it was closed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_disk::RamDisk;

    fn read(transfers: &Transfers, range: Range<u64>) -> Vec<u8> {
        let (told, answer) = bounded(1);
        transfers.read(range, move |bytes| told.send(bytes.unwrap()).unwrap());
        answer.recv().unwrap()
    }

    fn write(transfers: &Transfers, offset: u64, data: &[u8]) {
        let (told, answer) = bounded(1);
        transfers.write(offset, data, move |result| told.send(result).unwrap());
        answer.recv().unwrap().unwrap();
    }

    #[test]
    fn parts_of_sectors_are_read_and_written() {
        let transfers = Transfers::new(Arc::new(RamDisk::new(1 << 20)));
        write(&transfers, 0, &[1; 2048]);
        write(&transfers, 510, &[2; 4]);
        write(&transfers, 1500, &[3; 36]);
        let mut expected = vec![1; 2048];
        expected[510..514].fill(2);
        expected[1500..1536].fill(3);
        assert_eq!(read(&transfers, 0..2048), expected);
        assert_eq!(read(&transfers, 511..1501), expected[511..1501]);
        assert!(read(&transfers, 700..700).is_empty());
    }
}
