//! Sense data: why a command failed (SPC-4, 4.5), and what errors of disks become.

use bulkhead_disk::{DiskError, ErrorKind};

/// Sense key, additional sense code and qualifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sense {
    /// 0 to 15.
    pub key: u8,
    /// Additional sense code.
    pub code: u8,
    /// Its qualifier.
    pub qualifier: u8,
}

impl Sense {
    /// Nothing to tell.
    pub const NONE: Sense = Sense::new(0, 0, 0);
    /// The tray is closed and empty.
    pub const NO_MEDIUM: Sense = Sense::new(2, 0x3a, 1);
    /// The tray is open.
    pub const TRAY_OPEN: Sense = Sense::new(2, 0x3a, 2);
    /// Reading failed.
    pub const READ_ERROR: Sense = Sense::new(3, 0x11, 0);
    /// Writing failed.
    pub const WRITE_ERROR: Sense = Sense::new(3, 0x0c, 0);
    /// The device itself failed.
    pub const TARGET_FAILURE: Sense = Sense::new(4, 0x44, 0);
    /// No such command.
    pub const INVALID_OPCODE: Sense = Sense::new(5, 0x20, 0);
    /// A block address beyond the end.
    pub const OUT_OF_RANGE: Sense = Sense::new(5, 0x21, 0);
    /// A field of the command block has a value that is not supported.
    pub const INVALID_FIELD: Sense = Sense::new(5, 0x24, 0);
    /// No such logical unit.
    pub const NO_SUCH_UNIT: Sense = Sense::new(5, 0x25, 0);
    /// A field of the parameters has a value that is not supported.
    pub const INVALID_PARAMETER: Sense = Sense::new(5, 0x26, 0);
    /// Parameter list shorter than its own lengths.
    pub const PARAMETER_LENGTH: Sense = Sense::new(5, 0x1a, 0);
    /// Saved mode pages do not exist.
    pub const NO_SAVED_PAGES: Sense = Sense::new(5, 0x39, 0);
    /// The tray is locked.
    pub const REMOVAL_PREVENTED: Sense = Sense::new(5, 0x53, 2);
    /// Another medium.
    pub const MEDIUM_CHANGED: Sense = Sense::new(6, 0x28, 0);
    /// Power on or reset.
    pub const POWER_ON: Sense = Sense::new(6, 0x29, 0);
    /// The disk has another size.
    pub const CAPACITY_CHANGED: Sense = Sense::new(6, 0x2a, 9);
    /// The disk is write-protected.
    pub const WRITE_PROTECTED: Sense = Sense::new(7, 0x27, 0);
    /// A thin disk has no space left.
    pub const SPACE_EXHAUSTED: Sense = Sense::new(7, 0x27, 7);
    /// The command was ended from outside.
    pub const ABORTED: Sense = Sense::new(0xb, 0, 6);

    /// A sense by its numbers.
    pub const fn new(key: u8, code: u8, qualifier: u8) -> Sense {
        Sense { key, code, qualifier }
    }

    /// What the guest is told when an action on the disk failed.
    pub fn from_disk_error(error: &DiskError, write: bool) -> Sense {
        match error.kind() {
            ErrorKind::ReadOnly => Sense::WRITE_PROTECTED,
            ErrorKind::NoSpace => Sense::SPACE_EXHAUSTED,
            ErrorKind::OutOfRange => Sense::OUT_OF_RANGE,
            ErrorKind::Misaligned | ErrorKind::InvalidInput | ErrorKind::Unsupported => Sense::INVALID_FIELD,
            ErrorKind::Cancelled => Sense::ABORTED,
            ErrorKind::Io | ErrorKind::Corrupt if write => Sense::WRITE_ERROR,
            ErrorKind::Io | ErrorKind::Corrupt => Sense::READ_ERROR,
            _ => Sense::TARGET_FAILURE,
        }
    }

    /// The fixed format, 18 bytes, current error.
    pub fn fixed(&self) -> [u8; 18] {
        let mut data = [0; 18];
        data[0] = 0x70;
        data[2] = self.key;
        data[7] = 10;
        data[12] = self.code;
        data[13] = self.qualifier;
        data
    }

    /// The descriptor format without descriptors, 8 bytes.
    pub fn descriptor(&self) -> [u8; 8] {
        [0x72, self.key, self.code, self.qualifier, 0, 0, 0, 0]
    }
}
