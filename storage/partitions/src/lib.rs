//! Partition tables: which partitions a disk has, and how they are aligned.
//!
//! | module | what |
//! |---|---|
//! | `mbr` | the DOS table, with logical partitions |
//! | `gpt` | the GUID table, from its first or its backup header |
//! | `types` | names of partition types |
//!
//! A guest writes these tables: every number is checked against the disk, and the work is bounded.

#[doc(hidden)]
pub mod fuzz;
mod gpt;
mod mbr;
mod types;

use bulkhead_disk::{Node, Result, read_bytes};
use serde::Serialize;

/// The boundary to which partitions should be aligned: right for every sector, stripe and erase size in use.
pub const ALIGNMENT: u64 = 1 << 20;

/// How a disk is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Not at all: empty, or one file system on the whole disk.
    None,
    /// DOS table.
    Mbr,
    /// GUID table.
    Gpt,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Partition {
    /// Number as Linux gives it: logical partitions begin at 5.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// What it is for, for people.
    pub kind: String,
    /// Type as the table has it: a GUID, or two hexadecimal digits.
    pub type_id: String,
    /// Its own identity (GPT).
    pub id: Option<String>,
    /// Its name (GPT), or empty.
    pub name: String,
    /// Marked as the one to boot from.
    pub bootable: bool,
    /// The largest power of two, up to 1 MiB, that divides `start`.
    pub aligned_to: u64,
}

/// A disk's partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// Kind of the table.
    pub scheme: Scheme,
    /// In the order of their numbers.
    pub partitions: Vec<Partition>,
    /// What is wrong with the table.
    pub problems: Vec<String>,
}

/// Reads a disk's partition table. A damaged one gives what is readable, and `problems`.
///
/// # Errors
/// The disk cannot be read.
pub async fn read_table(disk: &dyn Node) -> Result<Table> {
    let facts = disk.facts();
    let area = Area { sector: u64::from(facts.logical_sector), size: facts.size };
    let mut table = Table { scheme: Scheme::None, partitions: Vec::new(), problems: Vec::new() };
    if area.size < area.sector {
        return Ok(table);
    }
    let first = read_bytes(disk, 0, facts.logical_sector as usize).await?;
    let Some(entries) = mbr::parse(&first) else { return Ok(table) };
    if entries.iter().any(|entry| entry.kind == mbr::PROTECTIVE) {
        gpt::read(disk, area, &mut table).await?;
    } else {
        mbr::read(disk, area, &entries, &mut table).await?;
    }
    note_overlaps(&mut table);
    Ok(table)
}

/// The disk that a table must fit in.
#[derive(Clone, Copy)]
struct Area {
    /// Bytes per logical sector.
    sector: u64,
    /// Bytes.
    size: u64,
}

impl Area {
    /// Bytes of a run of sectors, if it lies inside the disk.
    fn bytes(self, first: u64, sectors: u64) -> Option<(u64, u64)> {
        let start = first.checked_mul(self.sector)?;
        let size = sectors.checked_mul(self.sector)?;
        (size > 0 && start.checked_add(size)? <= self.size).then_some((start, size))
    }
}

/// The largest power of two, up to [`ALIGNMENT`], that divides `start`.
fn alignment(start: u64) -> u64 {
    1 << start.trailing_zeros().min(ALIGNMENT.trailing_zeros())
}

fn note_overlaps(table: &mut Table) {
    let mut order: Vec<&Partition> = table.partitions.iter().collect();
    order.sort_by_key(|partition| partition.start);
    for pair in order.windows(2) {
        if pair[0].start + pair[0].size > pair[1].start {
            table.problems.push(format!("partitions {} and {} overlap", pair[0].number, pair[1].number));
        }
    }
}
