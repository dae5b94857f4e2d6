//! Saved form of dynamic memory.

use minicbor::{Decode, Encode};

/// Name of the form.
pub(crate) const KIND: &str = "dynamic-memory";
/// Version of the form.
pub(crate) const VERSION: u32 = 1;

/// The device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct SavedMemory {
    /// 0 closed, 1 version agreed, 2 in use.
    #[n(0)]
    pub phase: u8,
    /// Capabilities: balloon, hot add, hot-add unit in pages.
    #[n(1)]
    pub capabilities: (bool, bool, u64),
    /// Number of the last message.
    #[n(2)]
    pub transaction: u32,
    /// What the balloon holds: first page and count of each range.
    #[n(3)]
    pub ballooned: Vec<(u64, u64)>,
    /// Pages that were hot added.
    #[n(4)]
    pub hot_added: u64,
    /// The request in the works: 0 none, 1 balloon, 2 unballoon, 3 hot add.
    #[n(5)]
    pub busy: u8,
    /// Pages of a hot add in the works.
    #[n(6)]
    pub adding: u64,
    /// Available and committed pages of the last report.
    #[n(7)]
    pub status: Option<(u64, u64)>,
    /// A fixed target in bytes; absent: by demand.
    #[n(8)]
    pub target: Option<u64>,
}
