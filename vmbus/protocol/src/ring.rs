//! Layout of a ring: one control page, then data. All offsets are bytes from the ring's start.

/// Where the producer writes next; an offset into the data.
pub const WRITE_INDEX: u64 = 0;
/// Where the consumer reads next.
pub const READ_INDEX: u64 = 4;
/// Not 0: the consumer wants no signals for data.
pub const INTERRUPT_MASK: u64 = 8;
/// Bytes that a blocked producer waits for; 0 when it is not blocked.
pub const PENDING_SEND_SIZE: u64 = 12;
/// Feature bits; bit 0: [`PENDING_SEND_SIZE`] is obeyed.
pub const FEATURES: u64 = 64;
/// The bit for [`PENDING_SEND_SIZE`].
pub const FEATURE_PENDING_SEND_SIZE: u32 = 1;
/// Where the data begins.
pub const DATA: u64 = 4096;
/// After each packet: the index where it began, in the upper half of a u64.
pub const TRAILER: u32 = 8;
