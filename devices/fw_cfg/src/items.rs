//! The items and the directory of files.

use crate::regs::key;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a name in the directory, with the zero behind it.
const NAME_FIELD: usize = 56;
const MAX_FILES: usize = 1024;

/// An item that cannot be added: a mistake in the assembly of a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// The name does not fit the directory.
    #[error("firmware file `{0}` cannot be added: names are 1 to 55 bytes without zeros; choose a shorter one")]
    Name(String),
    /// There is such a file already.
    #[error("firmware file `{0}` cannot be added twice")]
    Duplicate(String),
    /// The file has more bytes than the directory can say, or there are too many files.
    #[error("firmware file `{0}` cannot be added: at most 1024 files of less than 4 GiB fit")]
    TooLarge(String),
}

/// What firmware can read: items with fixed keys, and files.
#[derive(Debug, Clone)]
pub struct Items {
    fixed: BTreeMap<u16, Arc<[u8]>>,
    /// Sorted by name, so that the same machine has the same directory each time.
    files: BTreeMap<String, Arc<[u8]>>,
}

impl Default for Items {
    fn default() -> Items {
        Items::new()
    }
}

impl Items {
    /// Signature and features only.
    pub fn new() -> Items {
        let mut items = Items { fixed: BTreeMap::new(), files: BTreeMap::new() };
        items.set(key::SIGNATURE, b"QEMU".as_slice());
        items.set(key::FEATURES, 3u32.to_le_bytes().as_slice());
        items
    }

    /// Sets the item of a fixed [`key`].
    pub fn set(&mut self, key: u16, data: impl Into<Arc<[u8]>>) {
        self.fixed.insert(key, data.into());
    }

    /// Adds a file, such as `bootorder` or `etc/e820`.
    ///
    /// # Errors
    /// [`ItemError`]: a bad or used name, too much data.
    pub fn add_file(&mut self, name: &str, data: impl Into<Arc<[u8]>>) -> Result<(), ItemError> {
        let data = data.into();
        if name.is_empty() || name.len() >= NAME_FIELD || name.contains('\0') {
            return Err(ItemError::Name(name.into()));
        }
        if self.files.len() >= MAX_FILES || u32::try_from(data.len()).is_err() {
            return Err(ItemError::TooLarge(name.into()));
        }
        if self.files.contains_key(name) {
            return Err(ItemError::Duplicate(name.into()));
        }
        self.files.insert(name.into(), data);
        Ok(())
    }

    /// All items by key, with the directory (big-endian: count; then per file size, key, zero, name).
    pub(crate) fn by_key(&self) -> BTreeMap<u16, Arc<[u8]>> {
        let mut all = self.fixed.clone();
        let mut directory = (self.files.len() as u32).to_be_bytes().to_vec();
        for ((name, data), key) in self.files.iter().zip(key::FIRST_FILE..) {
            directory.extend((data.len() as u32).to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0; 2]);
            let mut field = [0; NAME_FIELD];
            field[..name.len()].copy_from_slice(name.as_bytes());
            directory.extend(field);
            all.insert(key, data.clone());
        }
        all.insert(key::DIRECTORY, directory.into());
        all
    }

    /// Names and sizes of the files.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, usize)> {
        self.files.iter().map(|(name, data)| (name.as_str(), data.len()))
    }
}
