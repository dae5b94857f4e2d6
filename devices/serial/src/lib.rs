//! The 16550A serial port ([`Serial`]), and what it is connected to: any [`SerialBackend`], or descriptors of the host
//! ([`FdPort`]: terminal, file, Unix socket).
//!
//! The guest sees eight ports (3F8h with IRQ 4, 2F8h with IRQ 3) and 16-byte FIFOs. Bytes leave at once, whatever the baud
//! rate; a backend that takes no more holds them back, and the guest waits as for a slow line. Input waits outside until the
//! FIFO has room, so nothing is ever lost. Document: National Semiconductor PC16550D.

mod backend;
mod device;
mod fd_port;
#[doc(hidden)]
pub mod fuzz;
mod regs;
mod saved_state;

pub use backend::{ModemInputs, SerialBackend};
pub use device::Serial;
pub use fd_port::{FdPort, InputFilter};
pub use saved_state::SavedSerial;
