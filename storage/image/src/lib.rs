//! Image tools: what `bulkhead disk` does to images, over every format.
//!
//! | module | what |
//! |---|---|
//! | [`format`] | the formats and kinds there are, and which name means which |
//! | [`open`] | an image as a layer or a whole disk, by format |
//! | [`create`](mod@create) | a new image |
//! | [`copy`] | the engine of every bulk operation: many transfers at once, holes and zeros skipped |
//! | [`convert`](mod@convert) | a disk into a new image of another format or kind |
//! | [`compare`](mod@compare) | whether two disks hold the same bytes |
//! | [`in_use`] | a disk that is served or attached to a VM: its chain, change tracking, limits |
//!
//! Nothing here opens a path: files come from whoever is allowed to open them. Every long operation reports to a
//! [`Control`], which can stop it; a stopped one leaves its target unfinished, and the caller throws that away.

pub mod compare;
pub mod convert;
pub mod copy;
pub mod create;
pub mod format;
pub mod in_use;
pub mod open;

use bulkhead_disk::{DiskError, ErrorKind, Result};

/// Hears of progress and may stop the work.
pub trait Control {
    /// `done` of `total` bytes. False stops the operation.
    fn progress(&self, done: u64, total: u64) -> bool;
}

/// Nobody listens.
pub struct Unattended;

impl Control for Unattended {
    fn progress(&self, _: u64, _: u64) -> bool {
        true
    }
}

/// Reports, and turns a stop into the error that ends the operation.
pub(crate) fn report(control: &dyn Control, action: &'static str, done: u64, total: u64) -> Result<()> {
    if control.progress(done, total) {
        return Ok(());
    }
    Err(DiskError::new(ErrorKind::Cancelled, action, "it was cancelled"))
}
