//! A file that gives other tasks random turns before and after each operation: races become repeatable.

use super::XorShift;
use crate::{Buffer, Completion, Durability, File, FileFacts, LocalFuture, Result, yield_now};
use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

/// Wraps a file; needs an [`crate::Executor`] or [`crate::run_now`].
pub struct SlowFile {
    file: Rc<dyn File>,
    random: RefCell<XorShift>,
}

impl SlowFile {
    /// The seed fixes the order of everything.
    pub fn new(file: Rc<dyn File>, seed: u64) -> Self {
        Self { file, random: RefCell::new(XorShift::new(seed)) }
    }

    async fn pause(&self) {
        let turns = self.random.borrow_mut().below(4);
        for _ in 0..turns {
            yield_now().await;
        }
    }

    fn around<'a, T: 'a>(&'a self, run: impl FnOnce() -> LocalFuture<'a, T> + 'a) -> LocalFuture<'a, T> {
        Box::pin(async move {
            self.pause().await;
            let result = run().await;
            self.pause().await;
            result
        })
    }
}

impl File for SlowFile {
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
        self.around(move || self.file.read(offset, buffer))
    }

    fn write(&self, offset: u64, buffer: Buffer, durability: Durability) -> LocalFuture<'_, Completion> {
        self.around(move || self.file.write(offset, buffer, durability))
    }

    fn flush(&self) -> LocalFuture<'_, Result<()>> {
        self.around(|| self.file.flush())
    }

    fn set_len(&self, len: u64) -> LocalFuture<'_, Result<()>> {
        self.around(move || self.file.set_len(len))
    }

    fn allocate(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        self.around(move || self.file.allocate(range))
    }

    fn zero_range(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        self.around(move || self.file.zero_range(range))
    }

    fn punch(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        self.around(move || self.file.punch(range))
    }

    fn data_after(&self, offset: u64) -> LocalFuture<'_, Result<Option<Range<u64>>>> {
        self.around(move || self.file.data_after(offset))
    }
}
