//! A file in memory: answers at once, so everything above it runs without an I/O loop.

use crate::{Buffer, Completion, DiskError, Durability, ErrorKind, File, FileFacts, LocalFuture, Result, SparseBytes};
use std::cell::{Cell, RefCell};
use std::future::ready;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A sparse file in memory.
#[derive(Clone)]
pub struct MemoryFile {
    path: PathBuf,
    bytes: RefCell<SparseBytes>,
    len: Cell<u64>,
    read_only: Cell<bool>,
}

impl MemoryFile {
    /// An empty file; `name` is for messages.
    pub fn new(name: impl AsRef<Path>) -> Self {
        Self {
            path: name.as_ref().to_owned(),
            bytes: RefCell::default(),
            len: Cell::new(0),
            read_only: Cell::new(false),
        }
    }

    /// A file with `data`.
    pub fn with_data(name: impl AsRef<Path>, data: &[u8]) -> Self {
        let file = Self::new(name);
        file.bytes.borrow_mut().write(0, data);
        file.len.set(data.len() as u64);
        file
    }

    /// Forbids or allows writing.
    pub fn set_read_only(&self, read_only: bool) {
        self.read_only.set(read_only);
    }

    /// All bytes (tests with small files).
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = vec![0; usize::try_from(self.len.get()).unwrap_or(usize::MAX)];
        self.bytes.borrow().read(0, &mut out);
        out
    }

    /// Synchronous positioned read, past the end zeros.
    pub fn peek(&self, offset: u64, out: &mut [u8]) {
        self.bytes.borrow().read(offset, out);
    }

    /// Synchronous positioned write that extends the file.
    pub fn poke(&self, offset: u64, data: &[u8]) {
        self.bytes.borrow_mut().write(offset, data);
        self.len.set(self.len.get().max(offset + data.len() as u64));
    }

    fn check(&self, action: &'static str, range: &Range<u64>, write: bool, inside: bool) -> Result<()> {
        if write && self.read_only.get() {
            return Err(DiskError::new(ErrorKind::ReadOnly, action, "the file is read-only").with_path(&self.path));
        }
        if inside && range.end > self.len.get() || range.start > range.end {
            let reason =
                format!("{} bytes wanted, the file ends at {}", range.end.saturating_sub(range.start), self.len.get());
            return Err(DiskError::new(ErrorKind::OutOfRange, action, reason).with_path(&self.path).at(range.start));
        }
        Ok(())
    }

    fn clear(&self, action: &'static str, range: &Range<u64>) -> Result<()> {
        self.check(action, range, true, true)?;
        self.bytes.borrow_mut().clear(range.clone());
        Ok(())
    }
}

/// The end of a transfer; a sum beyond u64 is an empty backward range that `check` refuses.
fn span(offset: u64, buffer: &Buffer) -> Range<u64> {
    offset..offset.checked_add(buffer.len() as u64).unwrap_or(0)
}

impl File for MemoryFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn facts(&self) -> FileFacts {
        FileFacts { read_only: self.read_only.get(), granule: 1, resizable: true }
    }

    fn len(&self) -> u64 {
        self.len.get()
    }

    fn read(&self, offset: u64, mut buffer: Buffer) -> LocalFuture<'_, Completion> {
        let result = self.check("read", &span(offset, &buffer), false, true);
        if result.is_ok() {
            self.bytes.borrow().read_into(offset, &mut buffer);
        }
        Box::pin(ready(Completion { result, buffer }))
    }

    fn write(&self, offset: u64, buffer: Buffer, _: Durability) -> LocalFuture<'_, Completion> {
        let result = self.check("write", &span(offset, &buffer), true, false);
        if result.is_ok() {
            self.bytes.borrow_mut().write_from(offset, &buffer);
            self.len.set(self.len.get().max(offset + buffer.len() as u64));
        }
        Box::pin(ready(Completion { result, buffer }))
    }

    fn flush(&self) -> LocalFuture<'_, Result<()>> {
        Box::pin(ready(Ok(())))
    }

    fn set_len(&self, len: u64) -> LocalFuture<'_, Result<()>> {
        let result = self.check("set the length", &(0..0), true, false);
        if result.is_ok() {
            if len < self.len.get() {
                self.bytes.borrow_mut().clear(len..self.len.get());
            }
            self.len.set(len);
        }
        Box::pin(ready(result))
    }

    fn allocate(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        let result = self.check("reserve space", &range, true, false);
        if result.is_ok() {
            self.len.set(self.len.get().max(range.end));
        }
        Box::pin(ready(result))
    }

    fn zero_range(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        Box::pin(ready(self.clear("clear", &range)))
    }

    fn punch(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        Box::pin(ready(self.clear("free", &range)))
    }

    fn data_after(&self, offset: u64) -> LocalFuture<'_, Result<Option<Range<u64>>>> {
        let found = self.bytes.borrow().data_after(offset).map(|range| range.start..range.end.min(self.len.get()));
        Box::pin(ready(Ok(found.filter(|range| !range.is_empty()))))
    }
}
