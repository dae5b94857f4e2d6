//! Registers, bits and command codes (ATA8-ACS, ATA/ATAPI-7).

/// Offsets in the command block; 0 is the data register.
pub(crate) mod port {
    /// Error (read), features (write).
    pub const FEATURE: u16 = 1;
    /// Sector count; interrupt reason of ATAPI.
    pub const COUNT: u16 = 2;
    pub const LBA_LOW: u16 = 3;
    /// Byte count of ATAPI, with LBA_HIGH.
    pub const LBA_MID: u16 = 4;
    pub const LBA_HIGH: u16 = 5;
    pub const DEVICE: u16 = 6;
    /// Status (read), command (write).
    pub const COMMAND: u16 = 7;
}

pub(crate) mod status {
    pub const BSY: u8 = 0x80;
    pub const DRDY: u8 = 0x40;
    pub const DSC: u8 = 0x10;
    pub const DRQ: u8 = 0x08;
    pub const ERR: u8 = 0x01;
    /// Ready for a command.
    pub const READY: u8 = DRDY | DSC;
}

pub(crate) mod error {
    pub const UNC: u8 = 0x40;
    pub const IDNF: u8 = 0x10;
    pub const ABRT: u8 = 0x04;
    /// After a reset: all is well.
    pub const PASSED: u8 = 0x01;
}

pub(crate) mod control {
    /// Interrupts off.
    pub const NIEN: u8 = 0x02;
    pub const SRST: u8 = 0x04;
    /// Read the previous contents of the registers that are two deep.
    pub const HOB: u8 = 0x80;
}

pub(crate) mod device {
    pub const LBA: u8 = 0x40;
    pub const DEV: u8 = 0x10;
    /// Bits that were always one, and that drivers expect.
    pub const OBSOLETE: u8 = 0xa0;
}

/// Interrupt reason, in the sector count register of ATAPI drives.
pub(crate) mod reason {
    pub const COMMAND: u8 = 0x01;
    pub const TO_HOST: u8 = 0x02;
    pub const DONE: u8 = COMMAND | TO_HOST;
}

pub(crate) mod command {
    pub const DATA_SET_MANAGEMENT: u8 = 0x06;
    pub const DEVICE_RESET: u8 = 0x08;
    pub const READ_SECTORS: u8 = 0x20;
    pub const READ_SECTORS_NO_RETRY: u8 = 0x21;
    pub const READ_SECTORS_EXT: u8 = 0x24;
    pub const READ_DMA_EXT: u8 = 0x25;
    pub const READ_NATIVE_MAX_EXT: u8 = 0x27;
    pub const READ_MULTIPLE_EXT: u8 = 0x29;
    pub const WRITE_SECTORS: u8 = 0x30;
    pub const WRITE_SECTORS_NO_RETRY: u8 = 0x31;
    pub const WRITE_SECTORS_EXT: u8 = 0x34;
    pub const WRITE_DMA_EXT: u8 = 0x35;
    pub const WRITE_MULTIPLE_EXT: u8 = 0x39;
    pub const WRITE_DMA_FUA_EXT: u8 = 0x3d;
    pub const VERIFY: u8 = 0x40;
    pub const VERIFY_NO_RETRY: u8 = 0x41;
    pub const VERIFY_EXT: u8 = 0x42;
    pub const DIAGNOSTIC: u8 = 0x90;
    pub const INITIALIZE_PARAMETERS: u8 = 0x91;
    pub const PACKET: u8 = 0xa0;
    pub const IDENTIFY_PACKET: u8 = 0xa1;
    pub const SMART: u8 = 0xb0;
    pub const READ_MULTIPLE: u8 = 0xc4;
    pub const WRITE_MULTIPLE: u8 = 0xc5;
    pub const SET_MULTIPLE: u8 = 0xc6;
    pub const READ_DMA: u8 = 0xc8;
    pub const READ_DMA_NO_RETRY: u8 = 0xc9;
    pub const WRITE_DMA: u8 = 0xca;
    pub const WRITE_DMA_NO_RETRY: u8 = 0xcb;
    pub const WRITE_MULTIPLE_FUA_EXT: u8 = 0xce;
    pub const STANDBY_IMMEDIATE: u8 = 0xe0;
    pub const IDLE_IMMEDIATE: u8 = 0xe1;
    pub const STANDBY: u8 = 0xe2;
    pub const IDLE: u8 = 0xe3;
    pub const CHECK_POWER_MODE: u8 = 0xe5;
    pub const SLEEP: u8 = 0xe6;
    pub const FLUSH_CACHE: u8 = 0xe7;
    pub const FLUSH_CACHE_EXT: u8 = 0xea;
    pub const IDENTIFY: u8 = 0xec;
    pub const SET_FEATURES: u8 = 0xef;
    pub const READ_NATIVE_MAX: u8 = 0xf8;
}

/// Subcommands of SMART, in the features register.
pub(crate) mod smart {
    pub const READ_DATA: u8 = 0xd0;
    pub const READ_THRESHOLDS: u8 = 0xd1;
    pub const AUTOSAVE: u8 = 0xd2;
    pub const ENABLE: u8 = 0xd8;
    pub const DISABLE: u8 = 0xd9;
    pub const RETURN_STATUS: u8 = 0xda;
    /// LBA mid and high of every SMART command.
    pub const KEY: (u8, u8) = (0x4f, 0xc2);
}

/// Bits of the bus-master registers (SFF-8038i).
pub(crate) mod bus_master {
    pub const START: u8 = 0x01;
    pub const TO_MEMORY: u8 = 0x08;
    pub const ACTIVE: u8 = 0x01;
    pub const ERROR: u8 = 0x02;
    pub const INTERRUPT: u8 = 0x04;
    /// What drivers note about the drives.
    pub const CAPABLE: u8 = 0x60;
}
