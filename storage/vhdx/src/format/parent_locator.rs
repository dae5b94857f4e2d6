//! The parent locator: which file the parent is, and how to find it (MS-VHDX 2.6.2.6).

use super::FormatError;
use super::bytes::{from_utf16le, guid_at, put, put_guid, u16_at, u32_at, utf16le};
use uuid::{Uuid, uuid};

/// The locator type that VHDX parents use.
pub const VHDX_PARENT: Uuid = uuid!("B04AEFB7-D19E-4A81-B789-25B8E9445913");
const STRUCTURE: &str = "parent locator";
const HEADER: usize = 20;
const ENTRY: usize = 12;
const MAX_ENTRIES: usize = 256;

/// The well-known keys.
pub mod key {
    /// The parent's DataWriteGuid when the child was made.
    pub const LINKAGE: &str = "parent_linkage";
    /// A second DataWriteGuid that is accepted: the one the parent gets while a merge into it runs.
    pub const LINKAGE_2: &str = "parent_linkage2";
    /// Path relative to the child's folder.
    pub const RELATIVE: &str = "relative_path";
    /// Path with a volume GUID.
    pub const VOLUME: &str = "volume_path";
    /// Path with a drive letter.
    pub const ABSOLUTE: &str = "absolute_win32_path";
}

/// Key-value pairs that name the parent, in the order of the file. Keys are unique.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ParentLocator {
    /// Pairs.
    pub entries: Vec<(String, String)>,
}

impl ParentLocator {
    /// A locator for a parent with this DataWriteGuid, see [`ParentLocator::set_paths`].
    pub fn new(linkage: Uuid, paths: &[String]) -> Self {
        let mut locator = Self::default();
        locator.set_linkage(linkage);
        locator.set_paths(paths);
        locator
    }

    /// Replaces all paths. Each goes under the key that its form asks for; of two with one form the first counts.
    pub fn set_paths(&mut self, paths: &[String]) {
        for name in [key::RELATIVE, key::VOLUME, key::ABSOLUTE] {
            match paths.iter().find(|path| form_of(path) == name) {
                Some(path) => self.set(name, path),
                None => self.remove(name),
            }
        }
    }

    /// Replaces the DataWriteGuid that the parent must have.
    pub fn set_linkage(&mut self, guid: Uuid) {
        self.set(key::LINKAGE, &braced(guid));
    }

    /// Parses and validates the item.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let damaged = |problem: String| Err(FormatError::damaged(STRUCTURE, problem));
        if bytes.len() < HEADER {
            return damaged(format!("only {} bytes", bytes.len()));
        }
        let kind = guid_at(bytes, 0);
        if kind != VHDX_PARENT {
            return Err(FormatError::unsupported(STRUCTURE, format!("type {kind} is not a VHDX parent")));
        }
        let count = usize::from(u16_at(bytes, 18));
        if count > MAX_ENTRIES || HEADER + count * ENTRY > bytes.len() {
            return damaged(format!("{count} entries in {} bytes (at most {MAX_ENTRIES})", bytes.len()));
        }
        let mut locator = Self::default();
        for entry in bytes[HEADER..].chunks_exact(ENTRY).take(count) {
            let name = text(bytes, u32_at(entry, 0), u16_at(entry, 8))?;
            let value = text(bytes, u32_at(entry, 4), u16_at(entry, 10))?;
            if locator.get(&name).is_some() {
                return damaged(format!("key `{name}` is there twice"));
            }
            locator.entries.push((name, value));
        }
        locator.linkage()?;
        Ok(locator)
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Sets `name`, in its place when it is there already.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.entries.iter_mut().find(|(key, _)| key == name) {
            Some(entry) => value.clone_into(&mut entry.1),
            None => self.entries.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Removes `name`.
    pub fn remove(&mut self, name: &str) {
        self.entries.retain(|(key, _)| key != name);
    }

    /// The DataWriteGuid that the parent must have.
    pub fn linkage(&self) -> Result<Uuid, FormatError> {
        let value = self.get(key::LINKAGE).unwrap_or_default();
        let problem = || FormatError::damaged(STRUCTURE, format!("`{}` is `{value}`, not a GUID", key::LINKAGE));
        unbraced(value).ok_or_else(problem)
    }

    /// The value of `name` as a GUID.
    pub fn guid(&self, name: &str) -> Option<Uuid> {
        self.get(name).and_then(unbraced)
    }

    /// Whether a parent with this DataWriteGuid is the one that the child was made from.
    pub fn accepts(&self, data_write_guid: Uuid) -> bool {
        let accepted = |name| self.guid(name) == Some(data_write_guid);
        accepted(key::LINKAGE) || accepted(key::LINKAGE_2)
    }

    /// Allows a second DataWriteGuid, or takes the permission back.
    pub fn set_linkage_2(&mut self, guid: Option<Uuid>) {
        match guid {
            Some(guid) => self.set(key::LINKAGE_2, &braced(guid)),
            None => self.remove(key::LINKAGE_2),
        }
    }

    /// Paths to try, in the order of the specification.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        [key::RELATIVE, key::VOLUME, key::ABSOLUTE].into_iter().filter_map(|name| self.get(name))
    }

    /// The bytes of the item.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER + self.entries.len() * ENTRY];
        put_guid(&mut bytes, 0, VHDX_PARENT);
        put(&mut bytes, 18, &(self.entries.len() as u16).to_le_bytes());
        for (index, (name, value)) in self.entries.iter().enumerate() {
            let (name, value) = (utf16le(name), utf16le(value));
            let at = HEADER + index * ENTRY;
            let name_at = bytes.len() as u32;
            put(&mut bytes, at, &name_at.to_le_bytes());
            put(&mut bytes, at + 4, &(name_at + name.len() as u32).to_le_bytes());
            put(&mut bytes, at + 8, &(name.len() as u16).to_le_bytes());
            put(&mut bytes, at + 10, &(value.len() as u16).to_le_bytes());
            bytes.extend_from_slice(&name);
            bytes.extend_from_slice(&value);
        }
        bytes
    }
}

fn text(item: &[u8], offset: u32, length: u16) -> Result<String, FormatError> {
    let (from, length) = (offset as usize, usize::from(length));
    let outside = || {
        FormatError::damaged(
            STRUCTURE,
            format!("text of {length} bytes at {from} lies outside of {} bytes", item.len()),
        )
    };
    item.get(from..from.saturating_add(length)).map(from_utf16le).ok_or_else(outside)
}

/// The key for a path: with a volume GUID, with any other root, or relative.
fn form_of(path: &str) -> &'static str {
    let drive = path.as_bytes().get(1) == Some(&b':');
    if path.starts_with(r"\\?\Volume{") {
        key::VOLUME
    } else if path.starts_with(['\\', '/']) || drive {
        key::ABSOLUTE
    } else {
        key::RELATIVE
    }
}

fn braced(guid: Uuid) -> String {
    guid.braced().to_string()
}

fn unbraced(text: &str) -> Option<Uuid> {
    let text = text.strip_prefix('{')?.strip_suffix('}')?;
    Uuid::try_parse(text).ok()
}
