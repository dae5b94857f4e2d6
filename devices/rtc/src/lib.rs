//! The real-time clock of a PC: an MC146818 with 256 bytes of battery-backed memory.
//!
//! The guest sees the ports 70h–71h (128 bytes, the first 14 are the clock) and 72h–73h (the upper 128 bytes), and IRQ 8.
//! The host supplies the wall-clock time at which the clock starts; from then on it follows VM time. Flags and time are
//! computed when they are read, and the host wakes only for enabled interrupts that are not pending yet.
//! Documents: Motorola MC146818A; the extended bank of Intel's 82371.

mod calendar;
mod device;
#[doc(hidden)]
pub mod fuzz;
mod regs;
mod saved_state;

pub use device::Rtc;
pub use saved_state::SavedRtc;
