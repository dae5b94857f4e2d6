//! io_uring: the only unsafe code of this crate.
//!
//! Invariant of buffer ownership: from the moment an entry is pushed until its completion is reaped, the [`Op`] in the slab
//! owns everything that the kernel may touch: the buffer (whose memory never moves while owned, see
//! [`bulkhead_disk::Buffer`]), the list of I/O vectors (on the heap, never resized), and the descriptor. A dropped future
//! only marks its op abandoned; a dropped ring first waits for every op.

use bulkhead_disk::Buffer;
use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const ENTRIES: u32 = 256;
/// The most I/O vectors of one call (Linux UIO_MAXIOV); what is left is a short transfer that the caller continues.
const MAX_VECTORS: usize = 1024;

/// One ring, of one thread.
#[derive(Clone)]
pub(crate) struct Ring {
    inner: Rc<RefCell<Inner>>,
}

struct Inner {
    uring: IoUring,
    ops: Vec<Option<Op>>,
    free: Vec<usize>,
    in_flight: usize,
}

/// What the kernel works on, and who waits for it.
struct Op {
    buffer: Buffer,
    _vectors: Vec<libc::iovec>,
    _file: Option<Arc<OwnedFd>>,
    state: State,
}

enum State {
    Waiting(Option<Waker>),
    Done(i32),
    Abandoned,
}

impl Ring {
    /// Sets a ring up; fails where the kernel or a seccomp filter refuses.
    pub(crate) fn new() -> io::Result<Self> {
        let fast = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(ENTRIES);
        let uring = fast.or_else(|_| IoUring::new(ENTRIES))?;
        let mut probe = io_uring::Probe::new();
        uring.submitter().register_probe(&mut probe)?;
        for code in [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE] {
            if !probe.is_supported(code) {
                return Err(io::ErrorKind::Unsupported.into());
            }
        }
        let inner = Inner { uring, ops: Vec::new(), free: Vec::new(), in_flight: 0 };
        Ok(Self { inner: Rc::new(RefCell::new(inner)) })
    }

    /// Reads at `offset` into the buffer: the result is a byte count or a negative error number.
    pub(crate) fn read(&self, file: &Arc<OwnedFd>, offset: u64, buffer: Buffer) -> RingOp {
        self.start(Some(file), buffer, |fd, vectors, count| {
            opcode::Readv::new(Fd(fd), vectors, count).offset(offset).build()
        })
    }

    /// Writes the buffer at `offset`.
    pub(crate) fn write(&self, file: &Arc<OwnedFd>, offset: u64, buffer: Buffer, stable: bool) -> RingOp {
        let flags = if stable { libc::RWF_DSYNC } else { 0 };
        self.start(Some(file), buffer, |fd, vectors, count| {
            opcode::Writev::new(Fd(fd), vectors, count).offset(offset).rw_flags(flags).build()
        })
    }

    /// `fdatasync`.
    pub(crate) fn flush(&self, file: &Arc<OwnedFd>) -> RingOp {
        self.start(Some(file), Buffer::empty(), |fd, _, _| {
            opcode::Fsync::new(Fd(fd)).flags(FsyncFlags::DATASYNC).build()
        })
    }

    /// `fallocate`.
    pub(crate) fn allocate(&self, file: &Arc<OwnedFd>, mode: i32, offset: u64, len: u64) -> RingOp {
        self.start(Some(file), Buffer::empty(), |fd, _, _| {
            opcode::Fallocate::new(Fd(fd), len).offset(offset).mode(mode).build()
        })
    }

    /// Waits until one of the poll events `mask` is true of `fd`, which the caller keeps open meanwhile.
    pub(crate) fn poll(&self, fd: i32, mask: u32) -> RingOp {
        self.start(None, Buffer::empty(), |_, _, _| opcode::PollAdd::new(Fd(fd), mask).build())
    }

    fn start(
        &self,
        file: Option<&Arc<OwnedFd>>,
        mut buffer: Buffer,
        build: impl FnOnce(i32, *const libc::iovec, u32) -> squeue::Entry,
    ) -> RingOp {
        let vectors = buffer.iovecs();
        let count = vectors.len().min(MAX_VECTORS) as u32;
        let fd = file.map_or(-1, |file| file.as_raw_fd());
        let entry = build(fd, vectors.as_ptr(), count);
        let op = Op { buffer, _vectors: vectors, _file: file.cloned(), state: State::Waiting(None) };
        let mut inner = self.inner.borrow_mut();
        let index = inner.free.pop().unwrap_or_else(|| {
            inner.ops.push(None);
            inner.ops.len() - 1
        });
        inner.ops[index] = Some(op);
        let entry = entry.user_data(index as u64);
        // SAFETY: everything that the entry points to is owned by the op that was just put into the slab, which keeps it
        // until the completion with this index is reaped (the invariant above).
        while unsafe { inner.uring.submission().push(&entry) }.is_err() {
            // The queue is full: hand it to the kernel. An error here shows again at the next wait.
            if inner.uring.submit().is_err() {
                inner.complete(index, -libc::EAGAIN);
                return RingOp { ring: self.clone(), index: Some(index) };
            }
        }
        inner.in_flight += 1;
        RingOp { ring: self.clone(), index: Some(index) }
    }

    /// Submits what is queued and waits for a completion, at most `timeout`. With nothing to submit, nothing finished and no
    /// time to wait it does not call the kernel.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let mut inner = self.inner.borrow_mut();
        let submitted = match timeout {
            None => inner.uring.submit_and_wait(1),
            Some(Duration::ZERO) => {
                let queue = inner.uring.submission();
                let quiet = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
                drop(queue);
                if quiet { Ok(0) } else { inner.uring.submit_and_wait(0) }
            }
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                inner.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
        };
        match submitted {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN)) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Wakes whoever waits for what completed.
    pub(crate) fn reap(&self) {
        self.inner.borrow_mut().reap();
    }
}

impl Inner {
    fn reap(&mut self) {
        loop {
            let next = self.uring.completion().next();
            let Some(entry) = next else { return };
            self.in_flight -= 1;
            self.complete(entry.user_data() as usize, entry.result());
        }
    }

    fn complete(&mut self, index: usize, result: i32) {
        let Some(op) = self.ops.get_mut(index).and_then(Option::as_mut) else { return };
        match std::mem::replace(&mut op.state, State::Done(result)) {
            State::Waiting(Some(waker)) => waker.wake(),
            State::Waiting(None) | State::Done(_) => {}
            State::Abandoned => {
                if result > 0 {
                    op.buffer.mark_filled();
                }
                self.remove(index);
            }
        }
    }

    fn remove(&mut self, index: usize) -> Option<Op> {
        self.free.push(index);
        self.ops[index].take()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Polls may never become true; cancelling everything makes the rest finish soon.
        let cancel = opcode::AsyncCancel2::new(io_uring::types::CancelBuilder::any()).build().user_data(u64::MAX);
        // SAFETY: the entry points to nothing.
        if unsafe { self.uring.submission().push(&cancel) }.is_ok() {
            self.in_flight += 1;
        }
        while self.in_flight > 0 {
            let waited = self.uring.submit_and_wait(1);
            self.reap();
            if let Err(error) = waited
                && error.raw_os_error() != Some(libc::EINTR)
            {
                // The kernel may still own these buffers: leaking them is the only safe end.
                std::mem::forget(std::mem::take(&mut self.ops));
                return;
            }
        }
    }
}

/// A request in the kernel: resolves to (result, buffer).
pub(crate) struct RingOp {
    ring: Ring,
    index: Option<usize>,
}

impl Future for RingOp {
    type Output = (i32, Buffer);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(index) = self.index else { return Poll::Ready((-libc::EINVAL, Buffer::empty())) };
        let finished = {
            let mut inner = self.ring.inner.borrow_mut();
            match inner.ops.get_mut(index).and_then(Option::as_mut).map(|op| &mut op.state) {
                Some(State::Done(result)) => {
                    let result = *result;
                    inner.remove(index).map(|op| (result, op.buffer))
                }
                Some(State::Waiting(waker)) => {
                    *waker = Some(context.waker().clone());
                    None
                }
                Some(State::Abandoned) | None => Some((-libc::EINVAL, Buffer::empty())),
            }
        };
        match finished {
            Some(output) => {
                self.index = None;
                Poll::Ready(output)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for RingOp {
    fn drop(&mut self) {
        let Some(index) = self.index else { return };
        let mut inner = self.ring.inner.borrow_mut();
        let Some(op) = inner.ops.get_mut(index).and_then(Option::as_mut) else { return };
        match op.state {
            State::Done(_) => drop(inner.remove(index)),
            _ => op.state = State::Abandoned,
        }
    }
}
