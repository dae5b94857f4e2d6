//! Interrupt controllers of a PC: the pair of 8259s with ELCR ([`Pic`]), the I/O APIC ([`Ioapic`]), and the lines to both
//! ([`InterruptLines`]).
//!
//! The guest sees the ports 20h, 21h, A0h, A1h, 4D0h, 4D1h and the registers at FEC0_0000h. The host supplies what the
//! processors give: an INTR line and a sink for messages. Documents: Intel 8259A, 82371 (ELCR), 82093AA.

#[doc(hidden)]
pub mod fuzz;
mod ioapic;
mod lines;
mod pic;
mod saved_state;

pub use ioapic::Ioapic;
pub use lines::{GSI_COUNT, InterruptLines};
pub use pic::Pic;
pub use saved_state::{SavedChip, SavedIoapic, SavedPic};
