//! VHDX images (MS-VHDX): fixed, dynamic and differencing disks with a metadata log.
//!
//! | module | holds |
//! |---|---|
//! | [`format`] | the on-disk structures, parsed and serialised without I/O |
//! | [`mod@create`] | laying out a new image |
//! | [`image`] | an open image as a [`bulkhead_disk::Layer`]: planners, commit through the log, trim |
//! | [`check`], [`info`] | what is in a file, and whether it is right |
//! | [`resize`], [`compact`] | changing the size of the disk, and of the file |
//!
//! How a change becomes durable is told in `image/commit.rs`; the rules that keep reads and writes in flight safe without
//! locks are told at `Anchor` in `image/mod.rs`.

pub mod check;
pub mod compact;
pub mod create;
pub mod format;
#[doc(hidden)]
pub mod fuzz;
pub mod image;
pub mod info;
mod log_ring;
pub mod resize;
mod sector_cache;
mod space;

pub use create::{CreateOptions, Kind, create};
pub use image::{NewGuid, OpenOptions, Opened, Vhdx};
