//! How file operations reach the kernel.

use crate::pool::Pool;
use crate::ring::Ring;
use crate::transfer::{Operation, perform};
use bulkhead_disk::{Buffer, DiskError, Result};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Which way to the kernel a loop takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoMode {
    /// io_uring, or the thread pool where the kernel or a seccomp filter refuses it. `BULKHEAD_IO` overrides.
    #[default]
    Auto,
    /// io_uring or an error.
    Ring,
    /// The thread pool.
    Threads,
    /// On the calling thread: every operation is finished at once. For deterministic mode and for tools without a loop.
    Inline,
}

impl IoMode {
    /// The mode named by the environment variable `BULKHEAD_IO` (`ring`, `threads`, `inline`), else `Auto`.
    pub fn from_environment() -> Self {
        match std::env::var("BULKHEAD_IO").as_deref() {
            Ok("ring") => Self::Ring,
            Ok("threads") => Self::Threads,
            Ok("inline") => Self::Inline,
            _ => Self::Auto,
        }
    }
}

#[derive(Clone)]
pub(crate) enum Engine {
    Ring(Ring),
    Pool(Pool),
    Inline,
}

impl Engine {
    pub(crate) fn new(mode: IoMode) -> Result<Self> {
        let mode = if mode == IoMode::Auto { IoMode::from_environment() } else { mode };
        let failed = |error| DiskError::from_io("start the I/O loop", error);
        match mode {
            IoMode::Inline => Ok(Self::Inline),
            IoMode::Threads => Pool::new().map(Self::Pool).map_err(failed),
            IoMode::Ring => Ring::new().map(Self::Ring).map_err(failed),
            IoMode::Auto => match Ring::new() {
                Ok(ring) => Ok(Self::Ring(ring)),
                Err(error) => {
                    tracing::info!(%error, "io_uring is refused: disks use a thread pool");
                    Pool::new().map(Self::Pool).map_err(failed)
                }
            },
        }
    }

    /// Performs one operation completely.
    pub(crate) async fn run(
        &self,
        file: &Arc<OwnedFd>,
        operation: Operation,
        mut buffer: Buffer,
    ) -> (io::Result<()>, Buffer) {
        match self {
            Self::Inline => {
                let result = perform(file, operation, &mut buffer);
                (result, buffer)
            }
            Self::Pool(pool) => pool.run(file, operation, buffer).await,
            Self::Ring(ring) => run_on_ring(ring, file, operation, buffer).await,
        }
    }
}

async fn run_on_ring(
    ring: &Ring,
    file: &Arc<OwnedFd>,
    operation: Operation,
    buffer: Buffer,
) -> (io::Result<()>, Buffer) {
    match operation {
        Operation::Flush => {
            let (result, buffer) = ring.flush(file).await;
            (check(result).map(drop), buffer)
        }
        Operation::Allocate { mode, offset, len } => {
            let (result, buffer) = ring.allocate(file, mode.bits() as i32, offset, len).await;
            (check(result).map(drop), buffer)
        }
        Operation::Read { offset } => transfer(ring, file, offset, buffer, None).await,
        Operation::Write { offset, stable } => transfer(ring, file, offset, buffer, Some(stable)).await,
    }
}

/// Repeats short transfers until the buffer is done.
async fn transfer(
    ring: &Ring,
    file: &Arc<OwnedFd>,
    offset: u64,
    buffer: Buffer,
    write: Option<bool>,
) -> (io::Result<()>, Buffer) {
    let mut done = Buffer::empty();
    let mut left = buffer;
    let mut at = offset;
    while !left.is_empty() {
        let (result, mut part) = match write {
            None => ring.read(file, at, left).await,
            Some(stable) => ring.write(file, at, left, stable).await,
        };
        let count = match check(result) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {
                left = part;
                continue;
            }
            Ok(count) if count > 0 => count,
            other => {
                let eof = if write.is_none() { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::WriteZero };
                done.append(part);
                return (Err(other.err().unwrap_or_else(|| eof.into())), done);
            }
        };
        left = part.split_off(count);
        if write.is_none() {
            part.mark_filled();
        }
        at += count as u64;
        done.append(part);
    }
    (Ok(()), done)
}

fn check(result: i32) -> io::Result<usize> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) }
}
