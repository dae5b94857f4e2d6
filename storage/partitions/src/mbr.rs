//! The DOS partition table: four entries in the first sector, logical partitions in a chain of further tables.

use crate::{Area, Partition, Table, alignment, types};
use bulkhead_disk::{Node, Result, read_bytes};

/// Type of the entry that shields a GUID table.
pub const PROTECTIVE: u8 = 0xEE;
/// Types of the entry that holds the logical partitions.
const EXTENDED: [u8; 3] = [0x05, 0x0F, 0x85];
/// Logical partitions that are followed; more are no table that anybody made.
const MOST_LOGICAL: u32 = 128;

/// An entry that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// 1–4.
    pub number: u32,
    /// Type.
    pub kind: u8,
    pub active: bool,
    /// Sectors.
    pub start: u64,
    /// Sectors.
    pub len: u64,
}

/// The used entries of a table's sector; `None` if it is none.
pub fn parse(sector: &[u8]) -> Option<Vec<Entry>> {
    if sector.get(510..512)? != [0x55, 0xAA] {
        return None;
    }
    let word = |bytes: &[u8]| u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let mut entries = Vec::new();
    for (raw, number) in sector[446..510].chunks_exact(16).zip(1..) {
        // A boot sector of a file system has the same mark at its end; its code does not look like entries.
        if raw[0] & 0x7F != 0 {
            return None;
        }
        let entry =
            Entry { number, kind: raw[4], active: raw[0] == 0x80, start: word(&raw[8..]), len: word(&raw[12..]) };
        if entry.kind != 0 && entry.len != 0 {
            entries.push(entry);
        }
    }
    (!entries.is_empty()).then_some(entries)
}

/// Fills the table from the entries of the first sector.
pub async fn read(disk: &dyn Node, area: Area, entries: &[Entry], table: &mut Table) -> Result<()> {
    table.scheme = crate::Scheme::Mbr;
    for entry in entries {
        if EXTENDED.contains(&entry.kind) {
            read_logical(disk, area, entry, table).await?;
        } else {
            add(area, entry, entry.number, 0, table);
        }
    }
    table.partitions.sort_by_key(|partition| partition.number);
    Ok(())
}

/// Follows the chain in an extended partition. Each table has its partition first, relative to itself, then the next table,
/// relative to the extended partition.
async fn read_logical(disk: &dyn Node, area: Area, extended: &Entry, table: &mut Table) -> Result<()> {
    let mut at = extended.start;
    for number in 5..5 + MOST_LOGICAL {
        let Some((offset, _)) = area.bytes(at, 1) else {
            table.problems.push(format!("the table of partition {number} lies outside the disk"));
            return Ok(());
        };
        let sector = read_bytes(disk, offset, area.sector as usize).await?;
        let Some(entries) = parse(&sector) else { return Ok(()) };
        if let Some(entry) = entries.iter().find(|entry| !EXTENDED.contains(&entry.kind)) {
            add(area, entry, number, at, table);
        }
        match entries.iter().find(|entry| EXTENDED.contains(&entry.kind)) {
            // Tables go upwards, so a circle is no table.
            Some(next) if extended.start + next.start > at => at = extended.start + next.start,
            Some(_) => {
                table.problems.push(format!("the tables behind partition {number} lead back"));
                return Ok(());
            }
            None => return Ok(()),
        }
    }
    table.problems.push(format!("more than {MOST_LOGICAL} logical partitions; the others are left out"));
    Ok(())
}

fn add(area: Area, entry: &Entry, number: u32, base: u64, table: &mut Table) {
    let Some((start, size)) = area.bytes(base + entry.start, entry.len) else {
        table.problems.push(format!("partition {number} reaches over the end of the disk"));
        return;
    };
    table.partitions.push(Partition {
        number,
        start,
        size,
        kind: types::of_mbr(entry.kind).into(),
        type_id: format!("{:02x}", entry.kind),
        id: None,
        name: String::new(),
        bootable: entry.active,
        aligned_to: alignment(start),
    });
}
