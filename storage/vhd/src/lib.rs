//! VHD 1.0 images: fixed, dynamic and differencing (`.vhd`, `.avhd`).
//!
//! | to … | see |
//! |---|---|
//! | create | [`create`] |
//! | open as a layer of a disk | [`VhdImage::open`] |
//! | know every header field | [`VhdImage::info`], [`inspect`] |
//! | check and repair | [`check()`], [`repair`] |
//! | grow, shrink, compact | [`VhdImage::resize`], [`VhdImage::compact`] |
//! | link to a parent, change the identity | [`bulkhead_disk::Layer::set_parent_link`], [`VhdImage::set_identity`] |
//!
//! On disk: footer copy, header, block table, blocks (bitmap, then data), footer. There is no journal; what makes the format
//! crash-safe is the order of writes (`commit.rs`): new blocks are taken only from space that reads as zeros, table and
//! bitmap are written at the guest's flush, and a sector's bit follows its data.

mod allocate;
mod bitmaps;
mod check;
mod commit;
mod compact;
mod create;
mod footer;
#[doc(hidden)]
pub mod fuzz;
mod geometry;
mod header;
mod image;
mod info;
mod link;
mod locator;
mod read_metadata;
mod resize;
mod sparse;

pub use check::{CheckReport, Problem, check, repair};
pub use compact::CompactReport;
pub use create::{CreateOptions, Kind, create};
pub use footer::{DiskType, Footer, MAX_SIZE};
pub use geometry::geometry;
pub use header::Header;
pub use image::VhdImage;
pub use info::{LocatorInfo, VhdInfo, inspect};
pub use locator::Locator;

/// Seconds between the Unix epoch and the VHD epoch, 2000-01-01 00:00:00 UTC.
pub const EPOCH: u64 = 946_684_800;
