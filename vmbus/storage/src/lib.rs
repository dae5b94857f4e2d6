//! The storage provider of VMBus: SCSI controllers with up to 64 disks and DVD drives each, and the fast path of IDE disks.
//!
//! ```text
//! guest signals ─► controller.rs takes packets ─► vstor.rs reads them ─► commands.rs: LogicalUnit says what to do
//!                                                                           │ at once            │ on the disk
//!                  completion packets, one signal for many ◄── completions.rs ◄── Disk::submit ◄─┘
//! ```
//!
//! Data goes straight between guest memory and the disk. A packet is taken only when there is room for its completion, so
//! completing never waits for the guest.

mod commands;
mod completions;
mod controller;
#[doc(hidden)]
pub mod fuzz;
mod luns;
mod offer;
mod saved_state;
mod vstor;

pub use controller::{Controller, RestoreError, Wiring};
pub use luns::{LunConfig, LunError, MAX_LUNS};
pub use offer::{Attachment, MAX_CONTROLLERS};
