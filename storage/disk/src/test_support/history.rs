//! What a power cut may leave: the versions of every sector, and which of them were promised.

use crate::{Node, read_bytes, run_now, write_bytes};
use std::collections::BTreeMap;

/// Bytes of a sector.
const SECTOR: usize = 512;

/// One version of a sector.
#[derive(Clone, Copy, Debug)]
struct Version {
    /// 0 = zeros.
    tag: u64,
    /// Recorded changes when the write was issued, and when it was acknowledged.
    issued: usize,
    acknowledged: usize,
}

/// Writes tagged sectors and afterwards knows what each sector may hold at any cut point.
///
/// Every sector carries its own number and version, so another sector's data is recognised as such.
#[derive(Default)]
pub struct History {
    sectors: BTreeMap<u64, Vec<Version>>,
    /// (changes when the flush was issued, changes when it was acknowledged).
    flushes: Vec<(usize, usize)>,
    next: u64,
}

fn contents(sector: u64, tag: u64) -> [u8; SECTOR] {
    let mut data = [0; SECTOR];
    if tag != 0 {
        for pair in data.chunks_exact_mut(16) {
            pair[..8].copy_from_slice(&sector.to_le_bytes());
            pair[8..].copy_from_slice(&tag.to_le_bytes());
        }
    }
    data
}

impl History {
    /// Writes `count` sectors from `first` on with a new version; `changes` counts the recorded changes.
    ///
    /// # Panics
    /// When the disk fails.
    pub fn write(&mut self, disk: &dyn Node, first: u64, count: u64, changes: &dyn Fn() -> usize) {
        self.next += 1;
        let tag = self.next;
        let data: Vec<u8> = (first..first + count).flat_map(|sector| contents(sector, tag)).collect();
        let issued = changes();
        run_now(write_bytes(disk, first * SECTOR as u64, &data)).expect("the write succeeds");
        self.note(first, count, tag, issued, changes());
    }

    /// Notes a version made by other means: tag 0 = zeros.
    pub fn note(&mut self, first: u64, count: u64, tag: u64, issued: usize, acknowledged: usize) {
        for sector in first..first + count {
            self.sectors.entry(sector).or_default().push(Version { tag, issued, acknowledged });
        }
    }

    /// Notes an acknowledged flush.
    pub fn flushed(&mut self, issued: usize, acknowledged: usize) {
        self.flushes.push((issued, acknowledged));
    }

    /// Checks every sector of `disk`, opened after a power cut behind `cut` changes.
    ///
    /// # Errors
    /// The first sector that holds something it must not.
    pub fn check(&self, disk: &dyn Node, cut: usize) -> Result<(), String> {
        let promised =
            self.flushes.iter().filter(|(_, acknowledged)| *acknowledged <= cut).map(|(issued, _)| *issued).max();
        for (sector, versions) in &self.sectors {
            let held = versions.iter().rposition(|version| promised.is_some_and(|start| version.acknowledged <= start));
            let mut allowed: Vec<u64> = if held.is_none() { vec![0] } else { Vec::new() };
            allowed.extend(
                versions
                    .iter()
                    .skip(held.unwrap_or(0))
                    .filter(|version| version.issued < cut || Some(version.tag) == held.map(|n| versions[n].tag))
                    .map(|version| version.tag),
            );
            let data = run_now(read_bytes(disk, sector * SECTOR as u64, SECTOR)).map_err(|error| error.to_string())?;
            if !allowed.iter().any(|tag| data == contents(*sector, *tag)) {
                return Err(format!("sector {sector} holds {:?}…, allowed versions {allowed:?}", &data[..16]));
            }
        }
        Ok(())
    }
}
