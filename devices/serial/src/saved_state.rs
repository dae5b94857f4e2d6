//! The saved form of a serial port.

use minicbor::{Decode, Encode};

/// A serial port. What its backend still holds is not part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct SavedSerial {
    /// Received, not read yet.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub received: Vec<u8>,
    /// Written, not taken by the backend yet.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub transmit: Vec<u8>,
    /// Interrupt enable register.
    #[n(2)]
    pub ier: u8,
    /// FIFO control register.
    #[n(3)]
    pub fcr: u8,
    /// Line control register.
    #[n(4)]
    pub lcr: u8,
    /// Modem control register.
    #[n(5)]
    pub mcr: u8,
    /// Error bits of the line status register.
    #[n(6)]
    pub errors: u8,
    /// Modem status register.
    #[n(7)]
    pub msr: u8,
    /// Lines from the modem, at the places of the modem status register.
    #[n(8)]
    pub modem: u8,
    /// Scratch register.
    #[n(9)]
    pub scratch: u8,
    /// Baud rate divisor.
    #[n(10)]
    pub divisor: u16,
    /// The transmitter interrupt is pending.
    #[n(11)]
    pub transmitter_pending: bool,
    /// The receiver's time-out interrupt is pending.
    #[n(12)]
    pub timed_out: bool,
    /// VM time in nanoseconds at which the receiver times out.
    #[n(13)]
    pub timeout_at: Option<u64>,
}
