//! Host files for disks.
//!
//! One [`IoLoop`] per I/O thread runs the tasks of its disks and waits for the kernel; [`HostFile`] is the
//! [`bulkhead_disk::File`] of that thread; [`DiskHandle`] is the [`bulkhead_disk::Disk`] that other threads hold.
//!
//! How a transfer reaches the kernel ([`IoMode`], `BULKHEAD_IO=ring|threads|inline`):
//!
//! | cache | reads | writes | flush, allocate, punch |
//! |---|---|---|---|
//! | [`Cache::Direct`] | io_uring, else thread pool | the same | the same |
//! | [`Cache::Writeback`] | from the page cache at once when there, else as above | at once into the page cache | as above |
//!
//! Cached writes run on the loop itself because no Linux file system but XFS writes to its page cache asynchronously:
//! io_uring would hand each of them to a kernel thread, at several times the cost of the copy.

#![deny(unsafe_code)]

mod context;
mod engine;
mod handle;
mod holder;
mod host_file;
mod io_loop;
mod lock;
mod open;
mod pool;
#[allow(unsafe_code, reason = "the kernel works on buffers while this process goes on: see the invariant in ring.rs")]
mod ring;
mod timers;
mod transfer;

pub use context::IoContext;
pub use engine::IoMode;
pub use handle::{DiskHandle, IoRemote};
pub use holder::Holder;
pub use host_file::HostFile;
pub use io_loop::{IoLoop, IoSeed};
pub use open::{Cache, OpenOptions};
