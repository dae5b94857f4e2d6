//! The disk contract: what every disk, image format and file of Bulkhead agrees on.
//!
//! Four seams, from the guest down to the host file:
//!
//! | trait | who holds it | threads |
//! |---|---|---|
//! | [`Disk`] | devices, NBD server: `submit(request, done)` | any thread, any number of queues |
//! | [`Node`] | a member of the storage graph: chain, QoS, change tracking, NBD client | one I/O thread, async |
//! | [`Layer`] | one image of a chain (VHD, VHDX, raw): a planner, moves no payload | one I/O thread, async |
//! | [`File`] | where a format keeps its bytes: io_uring, thread pool, memory, recorder | one I/O thread, async |
//!
//! Everything below [`Disk`] lives on one I/O thread and is not `Send`: between two `await`s nothing else runs, so formats
//! need no locks and the order of their writes can be read off the code. The futures finish on any executor: [`Executor`]
//! on an I/O thread, or [`run_now`] in tests and deterministic mode, where files answer at once.
//!
//! A request owns its [`Buffer`] until its [`Completion`] hands it back. Dropping a future never cancels I/O that already
//! reached the kernel: the file keeps the buffer until the kernel is done with it.

mod buffer;
mod error;
mod executor;
mod facts;
mod file;
mod layer;
mod local;
mod memory_file;
mod node;
mod owners;
mod ram_disk;
mod raw_image;
mod request;
mod sparse_bytes;
mod stack;
pub mod test_support;

pub use buffer::{Buffer, Piece};
pub use error::{DiskError, ErrorKind, Result};
pub use executor::{Executor, TaskWake};
pub use facts::{DiskFacts, Geometry, SECTOR};
pub use file::{Durability, File, FileFacts, read_vec, write_vec};
pub use layer::{Extent, FileExtent, Layer, MetadataCounters, ParentLink, Place, WriteGuard, WritePlan, ZeroMode};
pub use local::{FlushGate, LocalFuture, LocalLock, LocalLockGuard, Notify, join_all, run_now, yield_now};
pub use memory_file::MemoryFile;
pub use node::{Node, read_bytes, write_bytes};
pub use ram_disk::RamDisk;
pub use raw_image::RawImage;
pub use request::{BlockKind, Completion, Disk, Done, Request, StatusDone, StatusExtent, check_range};
pub use sparse_bytes::SparseBytes;
pub use stack::{Stack, WritePause};
