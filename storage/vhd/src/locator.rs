//! Parent locators: up to eight ways to say where the parent is.

use crate::footer::{be32, be64};
use bulkhead_disk::{DiskError, Result, SECTOR};

/// Locator slots in a header.
pub(crate) const SLOTS: usize = 8;
/// Longest path data that is read.
const MAX_DATA: u32 = 64 << 10;

/// Windows relative path, UTF-16 little-endian.
pub(crate) const RELATIVE: [u8; 4] = *b"W2ru";
/// Windows absolute path, UTF-16 little-endian.
pub(crate) const ABSOLUTE: [u8; 4] = *b"W2ku";
/// File URL in UTF-8.
pub(crate) const URL: [u8; 4] = *b"MacX";

/// One used locator slot: where its text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locator {
    /// Platform code, such as `W2ru`.
    pub code: [u8; 4],
    /// Bytes reserved for the text in the file.
    pub space: u32,
    /// Bytes of the text.
    pub length: u32,
    /// File offset of the text.
    pub offset: u64,
}

impl Locator {
    /// Reads a 24-byte slot; None when it is empty.
    pub(crate) fn parse(slot: &[u8]) -> Option<Self> {
        let code = [slot[0], slot[1], slot[2], slot[3]];
        if code == [0; 4] {
            return None;
        }
        let stored = be32(slot, 4);
        // A count of sectors by the specification, bytes as Windows writes it.
        let space = if stored < 512 { stored * SECTOR as u32 } else { stored };
        Some(Self { code, space, length: be32(slot, 8), offset: be64(slot, 16) })
    }

    pub(crate) fn encode(&self) -> [u8; 24] {
        let mut slot = [0; 24];
        slot[..4].copy_from_slice(&self.code);
        slot[4..8].copy_from_slice(&self.space.to_be_bytes());
        slot[8..12].copy_from_slice(&self.length.to_be_bytes());
        slot[16..24].copy_from_slice(&self.offset.to_be_bytes());
        slot
    }

    /// Checks that the text is small and inside a file of `file_len` bytes.
    pub(crate) fn check(&self, file_len: u64) -> Result<()> {
        let wrong = |what| DiskError::corrupt("read a VHD parent locator", what).at(self.offset);
        if self.length > MAX_DATA || self.length > self.space.max(self.length.min(512)) {
            return Err(wrong(format!("its text has {} bytes in a space of {}", self.length, self.space)));
        }
        if self.offset.checked_add(self.length.into()).is_none_or(|end| end > file_len) {
            return Err(wrong(format!("its text ends behind the file, which has {file_len} bytes")));
        }
        Ok(())
    }

    /// The text as a path, for the codes that hold one.
    pub(crate) fn decode(&self, text: &[u8]) -> Option<String> {
        match self.code {
            RELATIVE | ABSOLUTE => {
                let units: Vec<u16> =
                    text.chunks_exact(2).map(|pair| u16::from(pair[1]) << 8 | u16::from(pair[0])).collect();
                Some(String::from_utf16_lossy(&units).trim_end_matches('\0').to_owned())
            }
            URL => Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()),
            _ => None,
        }
    }
}

/// The code and text under which a path is stored: URLs as such, paths that begin with a dot as relative, others as absolute.
pub(crate) fn encode_path(path: &str) -> ([u8; 4], Vec<u8>) {
    if path.starts_with("file://") {
        return (URL, path.as_bytes().to_vec());
    }
    let windows = path.replace('/', "\\");
    let code = if windows.starts_with('.') { RELATIVE } else { ABSOLUTE };
    (code, windows.encode_utf16().flat_map(u16::to_le_bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_come_back_and_space_is_read_both_ways() {
        for (path, code, back) in [
            ("./p.vhd", RELATIVE, ".\\p.vhd"),
            ("/srv/vm/ü.vhd", ABSOLUTE, "\\srv\\vm\\ü.vhd"),
            ("file:///srv/p.vhd", URL, "file:///srv/p.vhd"),
        ] {
            let (got, text) = encode_path(path);
            assert_eq!(got, code);
            let locator = Locator { code, space: 512, length: text.len() as u32, offset: 4096 };
            assert_eq!(Locator::parse(&locator.encode()), Some(locator));
            assert_eq!(locator.decode(&text).as_deref(), Some(back));
        }
        let mut slot = Locator { code: RELATIVE, space: 1, length: 10, offset: 0 }.encode();
        assert_eq!(Locator::parse(&slot).unwrap().space, 512);
        slot[..4].fill(0);
        assert_eq!(Locator::parse(&slot), None);
    }

    #[test]
    fn hostile_locators_are_refused() {
        let locator = Locator { code: RELATIVE, space: u32::MAX, length: u32::MAX, offset: 0 };
        assert!(locator.check(u64::MAX).is_err());
        assert!(Locator { length: 100, space: 512, offset: u64::MAX - 10, ..locator }.check(u64::MAX).is_err());
        assert!(Locator { length: 100, space: 512, offset: 1000, ..locator }.check(1050).is_err());
        assert!(Locator { length: 100, space: 512, offset: 900, ..locator }.check(1050).is_ok());
    }
}
