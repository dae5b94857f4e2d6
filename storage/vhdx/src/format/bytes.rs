//! Little-endian fields inside byte slices whose length the caller has checked, and GUIDs in their mixed-endian form.

use uuid::Uuid;

/// The u16 at `at`.
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let mut field = [0; 2];
    field.copy_from_slice(&bytes[at..at + 2]);
    u16::from_le_bytes(field)
}

/// The u32 at `at`.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

/// The u64 at `at`.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

/// The GUID at `at` (first three fields little-endian).
pub fn guid_at(bytes: &[u8], at: usize) -> Uuid {
    let mut field = [0; 16];
    field.copy_from_slice(&bytes[at..at + 16]);
    Uuid::from_bytes_le(field)
}

/// Writes `value` at `at`.
pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Writes a GUID at `at`.
pub fn put_guid(bytes: &mut [u8], at: usize, guid: Uuid) {
    put(bytes, at, &guid.to_bytes_le());
}

/// CRC-32C over `bytes` with the four bytes at `field` taken as zero.
pub fn crc_without(bytes: &[u8], field: usize) -> u32 {
    let crc = crc32c::crc32c(&bytes[..field]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &bytes[field + 4..])
}

/// UTF-16LE bytes of `text`, no terminator.
pub fn utf16le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Text of UTF-16LE bytes; unpaired surrogates become U+FFFD, a trailing odd byte is ignored.
pub fn from_utf16le(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16_lossy(&units)
}
