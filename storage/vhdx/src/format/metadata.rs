//! The metadata region: table and items (MS-VHDX 2.6).

use super::bytes::{guid_at, put, put_guid, u16_at, u32_at, u64_at};
use super::geometry::Geometry;
use super::parent_locator::ParentLocator;
use super::{FormatError, KIB, MIB};
use uuid::{Uuid, uuid};

/// Bytes of the metadata table; items follow it.
pub const TABLE_SIZE: u64 = 64 * KIB;
/// Bytes of the region that our own files have.
pub const REGION_SIZE: u64 = MIB;
/// Offset of the parent locator in the regions that we write: it alone has a size that varies.
const PARENT_LOCATOR_AT: u32 = 128 * KIB as u32;
const SIGNATURE: &[u8; 8] = b"metadata";
const STRUCTURE: &str = "metadata";
const MAX_ENTRIES: usize = 2047;
const MAX_USER_ENTRIES: usize = 1024;
const MAX_ITEM: u64 = MIB;
const ENTRY: usize = 32;

/// GUIDs of the items that we know.
pub mod item {
    use super::{Uuid, uuid};
    /// Block size and flags.
    pub const FILE_PARAMETERS: Uuid = uuid!("CAA16737-FA36-4D43-B3B6-33F0AA44E76B");
    /// Virtual disk size.
    pub const DISK_SIZE: Uuid = uuid!("2FA54224-CD1B-4876-B211-5DBED83BF4B8");
    /// SCSI page 83 identity.
    pub const PAGE_83: Uuid = uuid!("BECA12AB-B2E6-4523-93EF-C309E000C746");
    /// Logical sector size.
    pub const LOGICAL_SECTOR: Uuid = uuid!("8141BF1D-A96F-4709-BA47-F233A8FAAB5F");
    /// Physical sector size.
    pub const PHYSICAL_SECTOR: Uuid = uuid!("CDA348C7-445D-4471-9CC9-E9885251C556");
    /// Parent locator.
    pub const PARENT_LOCATOR: Uuid = uuid!("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C");
}

/// One row of the metadata table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Which item.
    pub guid: Uuid,
    /// Offset in the metadata region; 0 when the item is empty.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
    /// Belongs to a user, not to the format.
    pub is_user: bool,
    /// Describes the virtual disk (goes along a chain), not the file.
    pub is_virtual_disk: bool,
    /// Who does not know the item must not open the file.
    pub is_required: bool,
}

/// The table of items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataTable {
    /// In the order of the file.
    pub items: Vec<Item>,
}

impl MetadataTable {
    /// Parses and validates the table (64 KiB) of a region of `region_length` bytes.
    pub fn parse(bytes: &[u8], region_length: u64) -> Result<Self, FormatError> {
        let damaged = |problem: String| Err(FormatError::damaged(STRUCTURE, problem));
        if bytes.len() as u64 != TABLE_SIZE || &bytes[..8] != SIGNATURE {
            return damaged("the signature `metadata` is missing".into());
        }
        let count = usize::from(u16_at(bytes, 10));
        if count > MAX_ENTRIES {
            return damaged(format!("{count} items (at most {MAX_ENTRIES})"));
        }
        let items: Vec<Item> = bytes[ENTRY..].chunks_exact(ENTRY).take(count).map(parse_item).collect();
        if items.iter().filter(|item| item.is_user).count() > MAX_USER_ENTRIES {
            return damaged(format!("more than {MAX_USER_ENTRIES} user items"));
        }
        let table = Self { items };
        table.validate(region_length)?;
        Ok(table)
    }

    fn validate(&self, region_length: u64) -> Result<(), FormatError> {
        let damaged = |problem: String| Err(FormatError::damaged(STRUCTURE, problem));
        let mut placed = Vec::new();
        for item in &self.items {
            let (start, length) = (u64::from(item.offset), u64::from(item.length));
            let empty = start == 0 && length == 0;
            if !empty && (start < TABLE_SIZE || length == 0 || length > MAX_ITEM || start + length > region_length) {
                return damaged(format!("item {} has {length} bytes at {start:#x} of the region", item.guid));
            }
            if item.is_required && (item.is_user || !is_known(item.guid)) {
                let problem = format!("item {} is required and unknown", item.guid);
                return Err(FormatError::unsupported(STRUCTURE, problem));
            }
            if !empty {
                placed.push((start, start + length, item.guid));
            }
        }
        placed.sort_unstable();
        if let Some(pair) = placed.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            return damaged(format!("items {} and {} overlap", pair[0].2, pair[1].2));
        }
        let mut names: Vec<(Uuid, bool)> = self.items.iter().map(|item| (item.guid, item.is_user)).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => damaged(format!("item {} is there twice", pair[0].0)),
            None => Ok(()),
        }
    }

    /// The item `guid` of the format, when it is there.
    pub fn find(&self, guid: Uuid) -> Option<&Item> {
        self.items.iter().find(|item| item.guid == guid && !item.is_user)
    }

    /// The 64 KiB of the table.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; TABLE_SIZE as usize];
        put(&mut bytes, 0, SIGNATURE);
        put(&mut bytes, 10, &(self.items.len() as u16).to_le_bytes());
        for (index, item) in self.items.iter().enumerate() {
            let at = ENTRY + index * ENTRY;
            let flag = |set: bool, bit: u32| if set { bit } else { 0 };
            let flags = flag(item.is_user, 1) | flag(item.is_virtual_disk, 2) | flag(item.is_required, 4);
            put_guid(&mut bytes, at, item.guid);
            put(&mut bytes, at + 16, &item.offset.to_le_bytes());
            put(&mut bytes, at + 20, &item.length.to_le_bytes());
            put(&mut bytes, at + 24, &flags.to_le_bytes());
        }
        bytes
    }
}

fn is_known(guid: Uuid) -> bool {
    use item::*;
    [FILE_PARAMETERS, DISK_SIZE, PAGE_83, LOGICAL_SECTOR, PHYSICAL_SECTOR, PARENT_LOCATOR].contains(&guid)
}

fn parse_item(entry: &[u8]) -> Item {
    let flags = u32_at(entry, 24);
    Item {
        guid: guid_at(entry, 0),
        offset: u32_at(entry, 16),
        length: u32_at(entry, 20),
        is_user: flags & 1 != 0,
        is_virtual_disk: flags & 2 != 0,
        is_required: flags & 4 != 0,
    }
}

/// What the known items say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Sizes.
    pub geometry: Geometry,
    /// Fixed disk: blocks stay allocated.
    pub leave_blocks_allocated: bool,
    /// SCSI page 83 identity, the same through a chain.
    pub page_83: Uuid,
    /// Where the parent is (differencing disks).
    pub parent: Option<ParentLocator>,
}

impl Metadata {
    /// Decodes the known items; `read` gives the bytes of an item.
    pub fn decode<E: From<FormatError>>(
        table: &MetadataTable,
        mut read: impl FnMut(&Item) -> Result<Vec<u8>, E>,
    ) -> Result<Self, E> {
        let mut fetch = |guid: Uuid, least: usize| -> Result<Vec<u8>, E> {
            let missing = || FormatError::damaged(STRUCTURE, format!("item {guid} is missing"));
            let bytes = read(table.find(guid).ok_or_else(missing)?)?;
            if bytes.len() < least {
                let problem = format!("item {guid} has {} bytes, {least} are needed", bytes.len());
                return Err(FormatError::damaged(STRUCTURE, problem).into());
            }
            Ok(bytes)
        };
        let parameters = fetch(item::FILE_PARAMETERS, 8)?;
        let flags = u32_at(&parameters, 4);
        let has_parent = flags & 2 != 0;
        let geometry = Geometry::new(
            u64_at(&fetch(item::DISK_SIZE, 8)?, 0),
            u64::from(u32_at(&parameters, 0)),
            u32_at(&fetch(item::LOGICAL_SECTOR, 4)?, 0),
            u32_at(&fetch(item::PHYSICAL_SECTOR, 4)?, 0),
            has_parent,
        )?;
        let page_83 = guid_at(&fetch(item::PAGE_83, 16)?, 0);
        let parent = if has_parent { Some(ParentLocator::parse(&fetch(item::PARENT_LOCATOR, 20)?)?) } else { None };
        Ok(Self { geometry, leave_blocks_allocated: flags & 1 != 0 && !has_parent, page_83, parent })
    }

    /// Table and items as one image of the region's first bytes (whole 4 KiB sectors).
    pub fn to_region(&self) -> Vec<u8> {
        let has_parent = self.parent.is_some();
        let flags = u32::from(self.leave_blocks_allocated) | if has_parent { 2 } else { 0 };
        let block_size = self.geometry.block_size() as u32;
        let parameters = [block_size.to_le_bytes(), flags.to_le_bytes()].concat();
        let logical = (self.geometry.logical_sector() as u32).to_le_bytes().to_vec();
        let physical = self.geometry.physical_sector().to_le_bytes().to_vec();
        let mut contents = vec![
            (item::FILE_PARAMETERS, false, parameters),
            (item::DISK_SIZE, true, self.geometry.disk_size().to_le_bytes().to_vec()),
            (item::PAGE_83, true, self.page_83.to_bytes_le().to_vec()),
            (item::LOGICAL_SECTOR, true, logical),
            (item::PHYSICAL_SECTOR, true, physical),
        ];
        if let Some(parent) = &self.parent {
            contents.push((item::PARENT_LOCATOR, false, parent.to_bytes()));
        }
        let mut region = vec![0; TABLE_SIZE as usize];
        let mut items = Vec::new();
        let mut next = TABLE_SIZE as u32;
        for (guid, is_virtual_disk, content) in contents {
            let offset = if guid == item::PARENT_LOCATOR { PARENT_LOCATOR_AT } else { next };
            let length = content.len() as u32;
            items.push(Item { guid, offset, length, is_user: false, is_virtual_disk, is_required: true });
            region.resize(region.len().max(offset as usize + content.len()), 0);
            put(&mut region, offset as usize, &content);
            next = offset + length;
        }
        put(&mut region, 0, &MetadataTable { items }.to_bytes());
        region.resize(region.len().next_multiple_of(4096), 0);
        region
    }
}
