//! Ports, status bits and command codes (82077AA data sheet, 290166).

/// Offsets from 3F0h.
pub(crate) mod port {
    pub const STATUS_A: u16 = 0;
    pub const STATUS_B: u16 = 1;
    /// Digital output.
    pub const DOR: u16 = 2;
    pub const TAPE: u16 = 3;
    /// Main status (read), data rate select (write).
    pub const STATUS: u16 = 4;
    pub const DATA: u16 = 5;
    /// Digital input (read), configuration control (write).
    pub const DIR: u16 = 7;
}

pub(crate) mod dor {
    pub const DRIVE: u8 = 0x03;
    /// Low: the controller is held in reset.
    pub const RUN: u8 = 0x04;
    /// Interrupts and DMA requests reach the bus.
    pub const GATE: u8 = 0x08;
}

pub(crate) mod main_status {
    pub const READY: u8 = 0x80;
    pub const TO_HOST: u8 = 0x40;
    pub const NON_DMA: u8 = 0x20;
    pub const BUSY: u8 = 0x10;
}

/// Status registers of result phases.
pub(crate) mod st0 {
    pub const ABNORMAL: u8 = 0x40;
    pub const INVALID: u8 = 0x80;
    pub const POLLED: u8 = 0xc0;
    pub const SEEK_END: u8 = 0x20;
    pub const EQUIPMENT: u8 = 0x10;
}

pub(crate) mod st1 {
    pub const MISSING_MARK: u8 = 0x01;
    pub const NOT_WRITABLE: u8 = 0x02;
    pub const NO_DATA: u8 = 0x04;
    pub const OVERRUN: u8 = 0x10;
    pub const DATA_ERROR: u8 = 0x20;
    pub const END_OF_CYLINDER: u8 = 0x80;
}

pub(crate) mod st3 {
    pub const PROTECTED: u8 = 0x40;
    /// Ready, and two-sided.
    pub const FIXED: u8 = 0x28;
    pub const TRACK_0: u8 = 0x10;
}

/// Commands without their option bits.
pub(crate) mod command {
    pub const READ_TRACK: u8 = 0x02;
    pub const SPECIFY: u8 = 0x03;
    pub const SENSE_DRIVE: u8 = 0x04;
    pub const WRITE: u8 = 0x05;
    pub const READ: u8 = 0x06;
    pub const RECALIBRATE: u8 = 0x07;
    pub const SENSE_INTERRUPT: u8 = 0x08;
    pub const WRITE_DELETED: u8 = 0x09;
    pub const READ_ID: u8 = 0x0a;
    pub const READ_DELETED: u8 = 0x0c;
    pub const FORMAT: u8 = 0x0d;
    pub const DUMP_REGISTERS: u8 = 0x0e;
    pub const SEEK: u8 = 0x0f;
    pub const VERSION: u8 = 0x10;
    pub const PERPENDICULAR: u8 = 0x12;
    pub const CONFIGURE: u8 = 0x13;
    pub const LOCK: u8 = 0x14;
    pub const VERIFY: u8 = 0x16;
    /// Option: both sides of the cylinder. The same bit locks (LOCK) and makes seeks relative (SEEK).
    pub const MULTI_TRACK: u8 = 0x80;

    /// Bytes of a command, its first included; 1 for what is unknown.
    pub fn len(first: u8) -> usize {
        match first & 0x1f {
            READ_TRACK | WRITE | READ | WRITE_DELETED | READ_DELETED | VERIFY => 9,
            FORMAT => 6,
            CONFIGURE => 4,
            SPECIFY | SEEK => 3,
            SENSE_DRIVE | RECALIBRATE | READ_ID | PERPENDICULAR => 2,
            _ => 1,
        }
    }
}
