//! The byte layout of the file and of a section's head, for reader and writer. All numbers are little-endian.
//!
//! File: magic (8), format (u32), zero (u32), sections, end mark.
//! Section: name length (u8), kind length (u8), zero (u16), version (u32), body length (u64), CRC32C (u32), name, kind, body; the
//! CRC covers everything but itself. End mark: a head whose lengths of name and kind are 0, version 0, body length = number of
//! sections.

pub(crate) const MAGIC: [u8; 8] = *b"BHState\x1a";
pub(crate) const FORMAT: u32 = 1;
pub(crate) const FILE_HEAD: usize = 16;
pub(crate) const SECTION_HEAD: usize = 20;

/// The longest name or kind, in bytes.
pub const MAX_NAME: usize = 64;
/// The largest body of a section, in bytes. RAM is not in here.
pub const MAX_BODY: u64 = 64 << 20;
/// The most sections in a file.
pub const MAX_SECTIONS: usize = 16 * 1024;
/// The most bytes of bodies in a file.
pub const MAX_FILE: u64 = 1 << 30;

/// The fixed part of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub name: u8,
    pub kind: u8,
    pub reserved: u16,
    pub version: u32,
    pub length: u64,
    pub crc: u32,
}

impl Head {
    pub fn to_bytes(self) -> [u8; SECTION_HEAD] {
        let mut bytes = [0; SECTION_HEAD];
        bytes[0] = self.name;
        bytes[1] = self.kind;
        bytes[2..4].copy_from_slice(&self.reserved.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.version.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8; SECTION_HEAD]) -> Head {
        let [name, kind, r0, r1, v0, v1, v2, v3, l0, l1, l2, l3, l4, l5, l6, l7, c0, c1, c2, c3] = *bytes;
        Head {
            name,
            kind,
            reserved: u16::from_le_bytes([r0, r1]),
            version: u32::from_le_bytes([v0, v1, v2, v3]),
            length: u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]),
            crc: u32::from_le_bytes([c0, c1, c2, c3]),
        }
    }

    /// The checksum that belongs to this head with these texts and this body.
    pub fn checksum(&self, name: &[u8], kind: &[u8], body: &[u8]) -> u32 {
        let covered = &self.to_bytes()[..SECTION_HEAD - 4];
        [covered, name, kind, body].into_iter().fold(0, crc32c::crc32c_append)
    }

    pub fn is_end(&self) -> bool {
        self.name == 0 && self.kind == 0
    }
}

/// Whether `text` may name a section or a kind.
pub(crate) fn is_name(text: &[u8]) -> bool {
    let allowed = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b':' | b'/');
    !text.is_empty() && text.len() <= MAX_NAME && text.iter().all(allowed)
}
