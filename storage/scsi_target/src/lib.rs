//! SCSI targets: what a disk or a DVD drive answers to a command (SPC-4, SBC-3, MMC-6). Pure: no I/O, no threads.
//!
//! A transport (ATAPI, the VMBus storage provider) has one [`LogicalUnit`] per device and gives it each command block.
//! The answer is a [`Step`]: data, a sense, or an [`Action`] that the transport does on the disk. How a failed action reads
//! for the guest is [`Sense::from_disk_error`].
//!
//! ```text
//! command(cdb, facts) ─► Good | Check(sense) | DataIn(bytes) | Disk(action)
//!                     └► DataOut(n): fetch n bytes, then parameters(cdb, bytes, facts) ─► as above
//! ```

mod block;
mod cdb;
#[doc(hidden)]
pub mod fuzz;
mod inquiry;
mod mode;
mod optical;
mod saved_state;
mod sense;
mod unit;

pub use inquiry::Identity;
pub use optical::CD_BLOCK;
pub use saved_state::SavedUnit;
pub use sense::Sense;
pub use unit::{Action, EjectRefused, LogicalUnit, Step, UnitKind};
