//! Offsets and bits of the 16550A.

/// RBR on read, THR on write; the divisor's low byte with DLAB.
pub const DATA: u16 = 0;
/// Interrupt enable; the divisor's high byte with DLAB.
pub const IER: u16 = 1;
/// IIR on read, FCR on write.
pub const IIR_FCR: u16 = 2;
pub const LCR: u16 = 3;
pub const MCR: u16 = 4;
pub const LSR: u16 = 5;
pub const MSR: u16 = 6;
pub const SCRATCH: u16 = 7;

pub const IER_RECEIVED: u8 = 1;
pub const IER_TRANSMITTER: u8 = 2;
pub const IER_LINE: u8 = 4;
pub const IER_MODEM: u8 = 8;

pub const IIR_MODEM: u8 = 0x0;
pub const IIR_NONE: u8 = 0x1;
pub const IIR_TRANSMITTER: u8 = 0x2;
pub const IIR_RECEIVED: u8 = 0x4;
pub const IIR_LINE: u8 = 0x6;
pub const IIR_TIMEOUT: u8 = 0xc;
pub const IIR_FIFO: u8 = 0xc0;

pub const FCR_ENABLE: u8 = 1;
pub const FCR_CLEAR_RECEIVER: u8 = 2;
pub const FCR_CLEAR_TRANSMITTER: u8 = 4;

pub const LCR_DLAB: u8 = 0x80;

pub const MCR_DTR: u8 = 1;
pub const MCR_RTS: u8 = 2;
pub const MCR_OUT1: u8 = 4;
pub const MCR_OUT2: u8 = 8;
pub const MCR_LOOP: u8 = 0x10;

pub const LSR_DATA: u8 = 1;
pub const LSR_OVERRUN: u8 = 2;
pub const LSR_ERRORS: u8 = 0x1e;
pub const LSR_THR_EMPTY: u8 = 0x20;
pub const LSR_EMPTY: u8 = 0x40;

pub const MSR_CTS: u8 = 0x10;
pub const MSR_DSR: u8 = 0x20;
pub const MSR_RING: u8 = 0x40;
pub const MSR_CARRIER: u8 = 0x80;
/// A change of CTS, DSR, carrier; the end of a ring.
pub const MSR_DELTAS: u8 = 0x0f;

pub const FIFO: usize = 16;
