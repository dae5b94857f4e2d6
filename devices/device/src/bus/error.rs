//! Why a range cannot be given to a device. Causes are mistakes in the assembly of a machine, never guests.

/// A refused range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Another device is there.
    #[error(
        "{space} {base:#x}+{len:#x} cannot be mapped for {device}: it overlaps {other_base:#x}+{other_len:#x} of {other}"
    )]
    Overlap {
        /// `ports` or `memory`.
        space: &'static str,
        /// First address of the refused range.
        base: u64,
        /// Length of the refused range.
        len: u64,
        /// Who wanted it.
        device: String,
        /// Who has it.
        other: String,
        /// First address of the range in the way.
        other_base: u64,
        /// Its length.
        other_len: u64,
    },
    /// The range is empty, or ends behind the address space.
    #[error("{space} {base:#x}+{len:#x} cannot be mapped for {device}: not a range inside the address space")]
    OutOfRange {
        /// `ports` or `memory`.
        space: &'static str,
        /// First address of the refused range.
        base: u64,
        /// Length of the refused range.
        len: u64,
        /// Who wanted it.
        device: String,
    },
}
