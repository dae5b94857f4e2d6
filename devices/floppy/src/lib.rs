//! The floppy disk controller (Intel 82077AA) with two 3.5-inch drives, and the two ISA DMA controllers (Intel 8237A).
//!
//! The guest sees ports 3F0h–3F5h and 3F7h, IRQ 6, DMA channel 2; and the DMA controllers at 00h–0Fh, C0h–DFh with their
//! page registers at 80h–8Fh. Media of 1.44 MB, 1.2 MB, 720 kB and 360 kB; DMA and non-DMA mode; the media change line.
//!
//! The host supplies images as [`bulkhead_disk::Disk`]. A command has at most one disk request in flight; its completion is
//! a task on the reactor. There are no mechanical delays: seeks end at once.
//!
//! | module | holds |
//! |---|---|
//! | `dma` | both DMA controllers as one device |
//! | `controller` | the floppy controller: ports, phases, media |
//! | `command` | what its commands do |
//! | `transfer` | sectors between disk and guest |
//! | `medium` | formats of media |

mod command;
mod controller;
mod dma;
#[doc(hidden)]
pub mod fuzz;
mod medium;
mod regs;
mod saved_state;
mod transfer;

pub use controller::{FloppyController, FloppyError, MediumError, Wiring};
pub use dma::{DmaController, DmaError};
