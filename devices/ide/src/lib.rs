//! The IDE controller of a PIIX3 (8086:7010): two channels with two drives each, ATA disks or ATAPI DVD drives.
//!
//! The guest sees the ports 1F0h/3F6h with IRQ 14 and 170h/376h with IRQ 15, and bus-master DMA at BAR 4 (Intel
//! 290550-002; SFF-8038i; ATA8-ACS, ATA/ATAPI-7). PIO, multiple, DMA, 28-bit, 48-bit and CHS addresses; TRIM.
//!
//! The host supplies disks ([`bulkhead_disk::Disk`]), interrupt lines and RAM; DMA goes from the disk straight to RAM.
//! Each channel has at most one disk request in flight; its completion is a task on the reactor. Until then the drive is
//! busy, also when the guest resets it: so a buffer that the guest reuses after a reset is never written by an old request.
//!
//! | module | holds |
//! |---|---|
//! | `controller` | the device: ports, PCI function, media, saving |
//! | `channel` | registers of a channel, selection, interrupts, resets |
//! | `ata`, `atapi` | what commands do |
//! | `transfer` | PIO and DMA data phases, disk requests and their completions |
//! | `bus_master` | bus-master registers and PRD tables |

mod ata;
mod atapi;
mod bus_master;
mod channel;
mod controller;
mod drive;
#[doc(hidden)]
pub mod fuzz;
mod geometry;
mod identify;
mod regs;
mod saved_state;
mod transfer;

pub use controller::{EjectError, IdeController, IdeError, Wiring};
pub use drive::{DriveConfig, Slot};
pub use geometry::default_geometry;
