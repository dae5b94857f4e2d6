//! The legacy network adapter: a DEC 21140A, as Hyper-V emulates it (1011:0009), with an MII transceiver at 100 Mbit/s.
//!
//! Drivers that know it: `tulip` of Linux, iPXE, and those of Windows up to Server 2003. It boots from the network where the
//! synthetic adapter has no driver yet. Registers and descriptors follow the 21140A Hardware Reference Manual.
//!
//! The host supplies a [`PortRing`](bulkhead_port::PortRing) to a virtual switch. Frames go from guest memory straight into it and back; a frame that finds
//! no receive descriptor waits in the ring, so that a slow guest slows its sender instead of losing frames.
//!
//! | module | holds |
//! |---|---|
//! | `adapter` | the device: registers, interrupts, PCI function, saving |
//! | `transmit`, `receive` | the two descriptor lists |
//! | `filter` | which frames are taken |
//! | `srom`, `mii` | what hangs at CSR9: serial ROM and transceiver |

mod adapter;
mod descriptor;
mod filter;
#[doc(hidden)]
pub mod fuzz;
mod mii;
mod receive;
mod regs;
mod saved_state;
mod srom;
mod transmit;

pub use adapter::{LegacyNic, LegacyNicError, Wiring};
