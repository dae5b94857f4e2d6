//! Little-endian fields at fixed offsets.

use uuid::Uuid;

/// Copies `N` bytes at `at`; zeros where the message has none (callers check lengths first).
pub(crate) fn bytes<const N: usize>(message: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(from) = message.get(at..at + N) {
        out.copy_from_slice(from);
    }
    out
}

pub(crate) fn u16_at(message: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes(message, at))
}

pub(crate) fn u32_at(message: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(message, at))
}

pub(crate) fn u64_at(message: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes(message, at))
}

pub(crate) fn guid_at(message: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes_le(bytes(message, at))
}
