//! The configuration device of firmware: numbered items and named files, read through two ports or by DMA.
//!
//! The guest sees what SeaBIOS, OVMF and Linux (`qemu_fw_cfg`) know: a selector port 510h, a data port 511h, and a DMA
//! address register at 514h (QEMU `docs/specs/fw_cfg.rst`). Everything is read-only for the guest.
//!
//! The host supplies [`Items`]: fixed keys of the interface ([`key`]) and files, which firmware finds by name in a directory.

mod device;
#[doc(hidden)]
pub mod fuzz;
mod items;
pub mod regs;
mod saved_state;

pub use device::{FwCfg, PORTS};
pub use items::{ItemError, Items};
pub use regs::key;
