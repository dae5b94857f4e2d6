//! Registers of the chip, by the names of its manual (Digital Semiconductor 21140A Hardware Reference Manual, ch. 3 and 4).

/// Bytes of the register block.
pub const LEN: u16 = 0x80;
/// Registers; each has eight bytes, of which four are used.
pub const COUNT: usize = 16;

/// CSR0: bus mode.
pub const BUS_MODE: usize = 0;
/// CSR1: transmit poll demand.
pub const TRANSMIT_POLL: usize = 1;
/// CSR2: receive poll demand.
pub const RECEIVE_POLL: usize = 2;
/// CSR3: base of the receive list.
pub const RECEIVE_LIST: usize = 3;
/// CSR4: base of the transmit list.
pub const TRANSMIT_LIST: usize = 4;
/// CSR5: status.
pub const STATUS: usize = 5;
/// CSR6: operation mode.
pub const MODE: usize = 6;
/// CSR7: interrupt enable.
pub const ENABLE: usize = 7;
/// CSR8: missed frames.
pub const MISSED: usize = 8;
/// CSR9: serial ROM and MII management.
pub const SERIAL: usize = 9;
/// CSR11: general-purpose timer.
pub const TIMER: usize = 11;

/// Values after reset.
pub const RESET: [u32; COUNT] = [
    0xfe00_0000,
    0xffff_ffff,
    0xffff_ffff,
    0,
    0,
    0xf000_0000,
    0x3200_0040,
    0xf3fe_0000,
    0xe000_0000,
    0xfff4_83ff,
    0xffff_ffff,
    0xfffe_0000,
    0xffff_ff00,
    0xffff_0000,
    0xffff_ffff,
    0x8ff0_0000,
];

/// Bits of CSR0.
pub mod bus_mode {
    /// Software reset.
    pub const RESET: u32 = 1;
}

/// Bits of CSR5; the lower ones are enabled by the same bits of CSR7.
pub mod status {
    pub const TRANSMITTED: u32 = 1 << 0;
    pub const TRANSMIT_STOPPED: u32 = 1 << 1;
    pub const TRANSMIT_UNAVAILABLE: u32 = 1 << 2;
    pub const RECEIVED: u32 = 1 << 6;
    pub const RECEIVE_UNAVAILABLE: u32 = 1 << 7;
    pub const RECEIVE_STOPPED: u32 = 1 << 8;
    pub const TIMER: u32 = 1 << 11;
    pub const BUS_ERROR: u32 = 1 << 13;
    pub const ABNORMAL: u32 = 1 << 15;
    pub const NORMAL: u32 = 1 << 16;
    /// What a driver clears by writing ones.
    pub const CLEARABLE: u32 = 0x1_efff;
    /// What NORMAL sums up; all others belong to ABNORMAL.
    pub const NORMAL_SOURCES: u32 = TRANSMITTED | TRANSMIT_UNAVAILABLE | RECEIVED | TIMER;
    pub const ABNORMAL_SOURCES: u32 =
        TRANSMIT_STOPPED | 1 << 3 | 1 << 5 | RECEIVE_UNAVAILABLE | RECEIVE_STOPPED | 1 << 9 | BUS_ERROR;
    /// State of the receiver.
    pub const RECEIVER: u32 = 7 << 17;
    pub const RECEIVER_WAITS: u32 = 3 << 17;
    pub const RECEIVER_SUSPENDED: u32 = 4 << 17;
    /// State of the transmitter.
    pub const TRANSMITTER: u32 = 7 << 20;
    pub const TRANSMITTER_RUNS: u32 = 3 << 20;
    pub const TRANSMITTER_SUSPENDED: u32 = 6 << 20;
}

/// Bits of CSR6.
pub mod mode {
    pub const RECEIVE: u32 = 1 << 1;
    pub const PROMISCUOUS: u32 = 1 << 6;
    pub const ALL_MULTICAST: u32 = 1 << 7;
    pub const LOOPBACK: u32 = 3 << 10;
    pub const TRANSMIT: u32 = 1 << 13;
    /// Always one.
    pub const FIXED: u32 = 1 << 25;
}

/// Bits of CSR9.
pub mod serial {
    pub const ROM_SELECT: u32 = 1 << 0;
    pub const ROM_CLOCK: u32 = 1 << 1;
    pub const ROM_IN: u32 = 1 << 2;
    pub const ROM_OUT: u32 = 1 << 3;
    /// Which of its users the register serves: the serial ROM.
    pub const ROM: u32 = 1 << 11;
    pub const MII_CLOCK: u32 = 1 << 16;
    pub const MII_OUT: u32 = 1 << 17;
    pub const MII_IN: u32 = 1 << 19;
    /// What reads back as it was written.
    pub const KEPT: u32 = 0x0007_7807;
}

/// Bits of a transmit descriptor.
pub mod tdes {
    /// Word 0: the chip owns it.
    pub const OWN: u32 = 1 << 31;
    /// Word 0: the frame was not sent.
    pub const ERROR: u32 = 1 << 15;
    /// Word 0: underflow or, here, a frame that no network takes.
    pub const UNDERFLOW: u32 = 1 << 1;
    /// Word 0 after a setup frame.
    pub const SETUP_DONE: u32 = 0x7fff_ffff;
    /// Word 1: interrupt when done.
    pub const INTERRUPT: u32 = 1 << 31;
    pub const LAST: u32 = 1 << 30;
    pub const FIRST: u32 = 1 << 29;
    pub const FILTER_1: u32 = 1 << 28;
    pub const SETUP: u32 = 1 << 27;
    pub const END_OF_RING: u32 = 1 << 25;
    pub const CHAINED: u32 = 1 << 24;
    pub const FILTER_0: u32 = 1 << 22;
}

/// Bits of a receive descriptor.
pub mod rdes {
    pub const MULTICAST: u32 = 1 << 10;
    pub const FIRST: u32 = 1 << 9;
    pub const LAST: u32 = 1 << 8;
    pub const TOO_LONG: u32 = 1 << 7;
    /// The type field is above 1500: not a length.
    pub const ETHERNET: u32 = 1 << 5;
    /// Word 1.
    pub const END_OF_RING: u32 = 1 << 25;
    pub const CHAINED: u32 = 1 << 24;
}
