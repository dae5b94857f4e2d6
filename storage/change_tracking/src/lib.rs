//! Changed-block tracking: which 64 KiB granules of a disk were written since a point in time.
//!
//! [`ChangeTracker`] is a filter over a disk. It keeps up to eight named bitmaps in one small file; a backup reads the
//! granules of a bitmap instead of the disk. [`Bitmaps`] is the file alone, while nobody writes to the disk.
//!
//! | module | what |
//! |---|---|
//! | `tracker` | the filter, and what one does with bitmaps: add, fork, merge, remove, list |
//! | `journal` | when what becomes durable; recovery |
//! | `head` | the file's head, twice: names, and the regions that count as changed after a crash; pure |
//! | `page` | 2040 MiB worth of one bitmap, with its checksum; pure |
//! | `granules` | a sparse set of granules; pure |
//!
//! # What survives a power cut
//! *Nothing is ever missed; after a crash more may be reported than was written.* A disk is divided into at most 16,384
//! regions (256 MiB each up to 4 TiB). The first write into a region since the bitmaps were last saved waits until the
//! head names that region durably; further writes there cost nothing. Saving writes the changed pages, flushes, and then a
//! head without these regions. After a crash every granule of a region that the head names counts as changed. A page whose
//! checksum is wrong counts as changed throughout.
//!
//! # The file (little-endian)
//! Two heads of 4 KiB at 0 and 4096, written in turn: the valid one with the higher generation counts. Page `p` of the bitmap
//! in slot `s` is at `8192 + (8 p + s) × 4096`. A page that names another bitmap, or nothing, holds no changes: so new
//! bitmaps cost no writes.

#[doc(hidden)]
pub mod fuzz;
mod granules;
mod head;
mod journal;
mod page;
mod tracker;

pub use granules::GRANULE;
pub use head::{MAX_BITMAPS, MAX_NAME};
pub use tracker::{BitmapInfo, Bitmaps, ChangeTracker, Stamp};
