//! Checking a file against every rule of the format, and repairing what can be repaired.

use crate::format::bat::{BlockState, PayloadEntry, decode_bitmap};
use crate::format::bytes::u64_at;
use crate::format::geometry::{BAT_ENTRY, BatSlot};
use crate::format::region_table::RegionTable;
use crate::format::{MIB, REGION_TABLE_OFFSETS, SECTOR};
use crate::image::open::{fixed_structures, read_headers, read_region_tables};
use crate::image::{Inner, NewGuid, OpenOptions, Vhdx, format_error};
use crate::space::SpaceMap;
use bulkhead_disk::{Buffer, Durability, File, Layer, Result};
use serde::Serialize;
use std::rc::Rc;

/// Damaged BAT entries beyond this are counted, not listed.
const MAX_LISTED: usize = 100;

/// What to do about damage.
#[derive(Clone)]
pub struct CheckOptions {
    /// Replay the log, restore bad copies of headers and region tables.
    pub repair: bool,
    /// With `repair`: damaged BAT entries are cleared; their blocks read as never written.
    pub drop_damaged_blocks: bool,
    /// Source of new GUIDs.
    pub new_guid: NewGuid,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// Covered by redundancy, or only untidy.
    Warning,
    /// Data is unreadable or at risk.
    Error,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What, and where.
    pub problem: String,
    /// Repaired by this check.
    pub repaired: bool,
}

/// The result of a check.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// In the order in which they were found.
    pub findings: Vec<Finding>,
    /// Damaged BAT entries, also those that are not listed.
    pub damaged_entries: u64,
    /// Allocated payload blocks.
    pub allocated_blocks: u64,
    /// Log entries that were (or would be) replayed.
    pub log_entries: usize,
    /// Bytes of the file that nothing uses: a compaction frees them.
    pub unused_bytes: u64,
}

impl Report {
    /// Nothing is wrong that was not repaired (warnings aside).
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.repaired || finding.severity == Severity::Warning)
    }

    fn add(&mut self, severity: Severity, problem: String, repaired: bool) {
        self.findings.push(Finding { severity, problem, repaired });
    }
}

/// Checks the file; with `repair` also writes to it.
///
/// # Errors
/// What makes the image unreadable as a whole (no valid header, unknown required items), and errors of the file. Everything
/// else is a finding.
pub async fn check(file: Rc<dyn File>, options: CheckOptions) -> Result<Report> {
    let mut report = Report::default();
    let headers = read_headers(&*file).await?;
    for (index, header) in headers.iter().enumerate() {
        if let Err(error) = header {
            report.add(Severity::Warning, format!("header {}: {error}", index + 1), options.repair);
        }
    }
    let open = |read_only| OpenOptions { read_only, new_guid: Rc::clone(&options.new_guid) };
    let opened = Vhdx::open_unscanned(Rc::clone(&file), open(!options.repair)).await?;
    report.log_entries = opened.replayed_entries;
    if report.log_entries > 0 {
        let problem = format!("the log holds {} entries that are not in their place", report.log_entries);
        report.add(Severity::Warning, problem, options.repair);
    }
    let inner = Rc::clone(opened.image.inner());
    check_region_tables(&inner, options.repair, &mut report).await?;
    let damaged = check_bat(&inner, &mut report).await?;
    if options.repair {
        if headers.iter().any(Result::is_err) {
            let header = inner.state.borrow().header.clone();
            inner.write_headers(header).await?;
        }
        if options.drop_damaged_blocks && !damaged.is_empty() {
            clear_entries(&inner, &damaged).await?;
            report.findings.iter_mut().for_each(|finding| finding.repaired = true);
        }
        opened.image.close().await?;
    }
    Ok(report)
}

async fn check_region_tables(inner: &Inner, repair: bool, report: &mut Report) -> Result<()> {
    let copies = read_region_tables(&*inner.file, inner.overlay.as_ref()).await?;
    let good = inner.state.borrow().regions.clone();
    for (index, copy) in copies.into_iter().enumerate() {
        let problem = match copy {
            Ok(copy) if copy == good => continue,
            Ok(_) => "it differs from the other copy".to_owned(),
            Err(error) => error.to_string(),
        };
        report.add(Severity::Warning, format!("region table {}: {problem}", index + 1), repair);
        if repair {
            restore_region_table(inner, &good, index).await?;
        }
    }
    Ok(())
}

/// The other copy stays valid meanwhile, so this needs no log.
async fn restore_region_table(inner: &Inner, good: &RegionTable, copy: usize) -> Result<()> {
    let buffer = Buffer::copy_of(&good.to_bytes());
    inner.file.write(REGION_TABLE_OFFSETS[copy], buffer, Durability::Cached).await.result?;
    inner.file.flush().await
}

/// Walks the whole BAT; returns the indices of damaged entries.
async fn check_bat(inner: &Inner, report: &mut Report) -> Result<Vec<u64>> {
    let geometry = inner.geometry();
    let (mut space, file_len) = {
        let state = inner.state.borrow();
        let len = inner.known_len();
        (fixed_structures(&state.header, &state.regions, len).map_err(format_error("check the image"))?, len)
    };
    if file_len % MIB != 0 {
        report.add(Severity::Warning, format!("the file has {file_len} bytes, not a whole number of MiB"), false);
    }
    let mut walk = Walk { report, space: &mut space, damaged: Vec::new(), partial: Vec::new(), bitmaps: Vec::new() };
    let mut at = 0;
    while at < geometry.bat_bytes() {
        let length = (geometry.bat_bytes() - at).min(MIB);
        if inner.is_bat_hole(at..at + length).await? {
            at += length;
            continue;
        }
        let bytes = inner.read_raw(inner.bat_offset()? + at, length as usize).await?;
        for (position, raw) in bytes.chunks_exact(BAT_ENTRY as usize).enumerate() {
            let index = at / BAT_ENTRY + position as u64;
            let raw = u64_at(raw, 0);
            if raw != 0 && index < geometry.bat_entries() {
                walk.entry(inner, index, raw, file_len);
            }
        }
        at += length;
    }
    walk.bitmaps_of_partial_blocks(geometry.chunk_ratio());
    let damaged = walk.damaged;
    let owned = space.owned_bytes();
    report.unused_bytes = file_len.next_multiple_of(MIB).saturating_sub(owned);
    if report.damaged_entries as usize > MAX_LISTED {
        let problem = format!("{} damaged BAT entries in all", report.damaged_entries);
        report.add(Severity::Error, problem, false);
    }
    Ok(damaged)
}

struct Walk<'a> {
    report: &'a mut Report,
    space: &'a mut SpaceMap,
    damaged: Vec<u64>,
    /// Partially present blocks with their BAT index, and chunks with a bitmap.
    partial: Vec<(u64, u64)>,
    bitmaps: Vec<u64>,
}

impl Walk<'_> {
    fn entry(&mut self, inner: &Inner, index: u64, raw: u64, file_len: u64) {
        let geometry = inner.geometry();
        let differencing = geometry.is_differencing();
        let decoded = match geometry.slot(index) {
            BatSlot::Payload(block) => {
                PayloadEntry::decode(raw, differencing, geometry.block_size(), file_len).map(|entry| {
                    if entry.state == BlockState::PartiallyPresent {
                        self.partial.push((block, index));
                    }
                    self.report.allocated_blocks += u64::from(entry.state.is_allocated());
                    entry.state.is_allocated().then(|| entry.offset..entry.offset + geometry.block_size())
                })
            }
            BatSlot::Bitmap(chunk) => decode_bitmap(raw, differencing, file_len).map(|offset| {
                self.bitmaps.extend(offset.map(|_| chunk));
                offset.map(|offset| offset..offset + MIB)
            }),
        };
        let owned = decoded.and_then(|range| range.map_or(Ok(()), |range| self.space.own(range)));
        if let Err(error) = owned {
            self.damage(index, format!("{:?}: {error}", geometry.slot(index)));
        }
    }

    fn damage(&mut self, index: u64, problem: String) {
        self.report.damaged_entries += 1;
        if self.damaged.len() < MAX_LISTED {
            self.report.add(Severity::Error, problem, false);
        }
        self.damaged.push(index);
    }

    /// A block that is partially here needs the bitmap that says which part.
    fn bitmaps_of_partial_blocks(&mut self, chunk_ratio: u64) {
        for (block, index) in std::mem::take(&mut self.partial) {
            let chunk = block / chunk_ratio;
            if self.bitmaps.binary_search(&chunk).is_err() {
                self.damage(index, format!("block {block} is partially present, chunk {chunk} has no sector bitmap"));
            }
        }
    }
}

/// Clears BAT entries in their place; the log is empty at this point, and each sector is right before and after.
async fn clear_entries(inner: &Inner, damaged: &[u64]) -> Result<()> {
    let bat = inner.bat_offset()?;
    for index in damaged {
        let offset = bat + index * BAT_ENTRY;
        let sector = offset - offset % SECTOR;
        let mut bytes = inner.read_raw(sector, SECTOR as usize).await?;
        let inside = (offset - sector) as usize;
        bytes[inside..inside + BAT_ENTRY as usize].fill(0);
        inner.file.write(sector, Buffer::copy_of(&bytes), Durability::Cached).await.result?;
    }
    inner.file.flush().await
}
