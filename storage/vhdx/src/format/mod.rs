//! On-disk structures of VHDX, one module per structure: parse, validate, serialise. No I/O.

pub mod bat;
pub mod bytes;
pub mod file_identifier;
pub mod geometry;
pub mod header;
pub mod log_entry;
pub mod log_replay;
pub mod metadata;
pub mod parent_locator;
pub mod region_table;
pub mod sector_bitmap;

/// One binary kibibyte.
pub const KIB: u64 = 1024;
/// One binary mebibyte: the alignment of everything behind the header area.
pub const MIB: u64 = 1024 * KIB;
/// The unit of the log and of metadata caching.
pub const SECTOR: u64 = 4 * KIB;

/// File offsets of the fixed structures (MS-VHDX 2.2).
pub const HEADER_OFFSETS: [u64; 2] = [64 * KIB, 128 * KIB];
/// File offsets of the two region tables.
pub const REGION_TABLE_OFFSETS: [u64; 2] = [192 * KIB, 256 * KIB];
/// Bytes of one region table.
pub const REGION_TABLE_SIZE: u64 = 64 * KIB;
/// The header area ends here; logs, regions and blocks begin at or behind it.
pub const HEADER_AREA: u64 = MIB;

/// Why bytes are not a valid VHDX structure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes break a rule of the format.
    #[error("{structure}: {problem}")]
    Damaged {
        /// Which structure.
        structure: &'static str,
        /// Which rule, with the values found.
        problem: String,
    },
    /// The bytes may be valid, but ask for something that this implementation refuses.
    #[error("{structure}: {problem}")]
    Unsupported {
        /// Which structure.
        structure: &'static str,
        /// What is not supported, with the values found.
        problem: String,
    },
}

impl FormatError {
    pub(crate) fn damaged(structure: &'static str, problem: impl Into<String>) -> Self {
        Self::Damaged { structure, problem: problem.into() }
    }

    pub(crate) fn unsupported(structure: &'static str, problem: impl Into<String>) -> Self {
        Self::Unsupported { structure, problem: problem.into() }
    }
}
