//! What a format must answer: where a range of the disk is.

use std::ops::Range;

use bulkhead_disk::{LocalFuture, Result};

use crate::tables::Tables;
use crate::unpack::Packing;

/// The largest disk that is believed: what VHDX can hold.
pub const MAX_SIZE: u64 = 64 << 40;

/// Where a run of bytes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the file from this offset on; what is behind the file's end reads as zeros.
    File(u64),
    /// Inside a compressed unit.
    Packed(PackedUnit),
    /// Stored as zeros.
    Zero,
    /// Not stored.
    Hole,
}

/// A cluster or grain that is stored compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedUnit {
    /// Where it begins on the disk.
    pub start: u64,
    /// Bytes of it, unpacked.
    pub len: u64,
    /// Where the packed bytes are in the file.
    pub offset: u64,
    /// How many there are at most.
    pub packed_len: u64,
    /// How.
    pub packing: Packing,
}

/// A run of bytes with one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Bytes, never 0.
    pub len: u64,
    /// Where they are.
    pub place: Place,
}

/// The walk through a format's tables.
pub trait Mapping {
    /// Where `range` (inside the disk, not empty) is: ordered, covering it exactly.
    fn find<'a>(&'a self, tables: &'a Tables, range: Range<u64>) -> LocalFuture<'a, Result<Vec<Run>>>;

    /// What the headers say.
    fn info(&self) -> ForeignInfo;
}

/// What an image's headers say, as far as a person would want to know.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ForeignInfo {
    /// `dynamic` or `fixed`.
    pub kind: &'static str,
    /// Version and variant in the format's own words.
    pub variant: String,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes per cluster, grain or block.
    pub unit: u64,
    /// `deflate`, `zstd`, or none where nothing is compressed.
    pub compression: Option<&'static str>,
    /// Things worth knowing before a conversion.
    pub notes: Vec<String>,
}

/// Appends a run, joined with the last one where both touch.
pub fn push_run(runs: &mut Vec<Run>, len: u64, place: Place) {
    if len == 0 {
        return;
    }
    if let Some(last) = runs.last_mut() {
        let joins = match (last.place, place) {
            (Place::File(start), Place::File(next)) => start.checked_add(last.len) == Some(next),
            (Place::Packed(a), Place::Packed(b)) => a == b,
            (Place::Zero, Place::Zero) | (Place::Hole, Place::Hole) => true,
            _ => false,
        };
        if joins {
            last.len += len;
            return;
        }
    }
    runs.push(Run { len, place });
}
