//! A file that fails on demand: at the n-th operation of a kind, or when it grows past a limit.

use crate::{Buffer, Completion, DiskError, Durability, ErrorKind, File, FileFacts, LocalFuture, Result, write_vec};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

/// Kinds of file operations, for [`Fault::operation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Positioned read.
    Read,
    /// Positioned write.
    Write,
    /// Flush.
    Flush,
    /// Length change, reservation.
    Resize,
    /// Zeroing, punching.
    Clear,
}

/// One fault to inject.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Fails only operations of this kind; None = any.
    pub operation: Option<Operation>,
    /// How many matching operations succeed first.
    pub after: u64,
    /// How many then fail (`u64::MAX` = all from then on).
    pub count: u64,
    /// The error.
    pub kind: ErrorKind,
    /// For writes: this many bytes still reach the file (a short write before the error).
    pub short: usize,
}

impl Fault {
    /// Fails the operation number `after` (from 0) of any kind, once.
    pub fn once(after: u64, kind: ErrorKind) -> Self {
        Self { operation: None, after, count: 1, kind, short: 0 }
    }
}

/// Wraps a file and injects faults. A failed flush poisons it as real files are.
pub struct FaultyFile {
    file: Rc<dyn File>,
    faults: RefCell<Vec<Fault>>,
    limit: Cell<u64>,
    operations: Cell<u64>,
    poisoned: Cell<bool>,
}

impl FaultyFile {
    /// No faults yet.
    pub fn new(file: Rc<dyn File>) -> Self {
        Self {
            file,
            faults: RefCell::default(),
            limit: Cell::new(u64::MAX),
            operations: Cell::new(0),
            poisoned: Cell::new(false),
        }
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.faults.borrow_mut().push(fault);
    }

    /// The store has room for a file of `limit` bytes: growing further is `NoSpace`. `u64::MAX` lifts it.
    pub fn set_space(&self, limit: u64) {
        self.limit.set(limit);
    }

    /// The cause is gone: removes all faults, the space limit and the poison (a reopened file).
    pub fn heal(&self) {
        self.faults.borrow_mut().clear();
        self.limit.set(u64::MAX);
        self.poisoned.set(false);
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.operations.get()
    }

    /// The fault for this operation: (error, bytes that still get through).
    fn strike(&self, operation: Operation, end: u64) -> Option<(DiskError, usize)> {
        self.operations.set(self.operations.get() + 1);
        let action = format!("{operation:?}").to_lowercase();
        if self.poisoned.get() && !matches!(operation, Operation::Read) {
            let error = DiskError::new(ErrorKind::Poisoned, action, "an earlier flush failed");
            return Some((error.with_path(self.path()), 0));
        }
        if end > self.limit.get() && end > self.file.len() {
            let error = DiskError::new(ErrorKind::NoSpace, action, "no space left (injected)");
            return Some((error.with_path(self.path()), 0));
        }
        for fault in self.faults.borrow_mut().iter_mut() {
            if fault.operation.is_some_and(|wanted| wanted != operation) || fault.count == 0 {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            fault.count -= 1;
            if operation == Operation::Flush {
                self.poisoned.set(true);
            }
            return Some((DiskError::new(fault.kind, action, "injected").with_path(self.path()), fault.short));
        }
        None
    }

    fn guard<'a>(
        &'a self,
        operation: Operation,
        end: u64,
        run: impl FnOnce() -> LocalFuture<'a, Result<()>> + 'a,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            match self.strike(operation, end) {
                Some((error, _)) => Err(error),
                None => run().await,
            }
        })
    }
}

impl File for FaultyFile {
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
        Box::pin(async move {
            match self.strike(Operation::Read, 0) {
                Some((error, _)) => Completion::failed(error.at(offset), buffer),
                None => self.file.read(offset, buffer).await,
            }
        })
    }

    fn write(&self, offset: u64, buffer: Buffer, durability: Durability) -> LocalFuture<'_, Completion> {
        Box::pin(async move {
            let Some((error, short)) = self.strike(Operation::Write, offset.saturating_add(buffer.len() as u64)) else {
                return self.file.write(offset, buffer, durability).await;
            };
            let mut head = vec![0; short.min(buffer.len())];
            buffer.copy_to(0, &mut head);
            if !head.is_empty()
                && let Err(error) = write_vec(&*self.file, offset, &head).await
            {
                return Completion::failed(error, buffer);
            }
            Completion::failed(error.at(offset), buffer)
        })
    }

    fn flush(&self) -> LocalFuture<'_, Result<()>> {
        self.guard(Operation::Flush, 0, || self.file.flush())
    }

    fn set_len(&self, len: u64) -> LocalFuture<'_, Result<()>> {
        self.guard(Operation::Resize, len, move || self.file.set_len(len))
    }

    fn allocate(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        self.guard(Operation::Resize, range.end, move || self.file.allocate(range))
    }

    fn zero_range(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        self.guard(Operation::Clear, 0, move || self.file.zero_range(range))
    }

    fn punch(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        self.guard(Operation::Clear, 0, move || self.file.punch(range))
    }

    fn data_after(&self, offset: u64) -> LocalFuture<'_, Result<Option<Range<u64>>>> {
        self.file.data_after(offset)
    }
}
