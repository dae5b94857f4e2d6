//! Reads and validates everything of a VHD file but its payload.

use crate::footer::{DiskType, FOOTER, Footer};
use crate::header::{HEADER, Header};
use bulkhead_disk::{DiskError, File, Result, SECTOR, read_vec};
use std::ops::Range;

/// Table entry of a block that is not there.
pub(crate) const ABSENT: u32 = u32::MAX;

/// Where the authoritative footer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FooterPlace {
    /// At this offset, the end of the file.
    End(u64),
    /// The end has none (a crash while growing): the copy at 0 counts.
    Copy,
}

/// A VHD file's metadata.
pub(crate) struct Metadata {
    pub(crate) footer: Footer,
    pub(crate) place: FooterPlace,
    /// The copy at 0 is there and equal.
    pub(crate) copy_is_good: bool,
    pub(crate) sparse: Option<SparseMetadata>,
}

/// Header and table of dynamic and differencing disks.
pub(crate) struct SparseMetadata {
    pub(crate) header: Header,
    pub(crate) header_offset: u64,
    /// Sector of each block's bitmap.
    pub(crate) table: Vec<u32>,
}

/// Something that breaks the format's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// A block that is not inside the file or touches something else.
    Block { block: u32, sector: u32, why: String },
    /// Another structure that touches something.
    Structure(String),
}

/// Bytes of the bitmap in front of a block of `block_size` bytes.
pub(crate) fn bitmap_size(block_size: u32) -> u64 {
    (u64::from(block_size) / SECTOR).div_ceil(8).next_multiple_of(SECTOR)
}

impl Metadata {
    /// Reads footer, header and table.
    pub(crate) async fn read(file: &dyn File) -> Result<Self> {
        Self::read_inner(file).await.map_err(|error| error.with_path(file.path()))
    }

    async fn read_inner(file: &dyn File) -> Result<Self> {
        let copy = read_copy(file).await;
        let (footer, place) = match (read_end(file).await, &copy) {
            (Ok(found), _) => found,
            (Err(_), Some(copy)) => (copy.clone(), FooterPlace::Copy),
            (Err(error), None) => return Err(error),
        };
        let copy_is_good = copy.as_ref() == Some(&footer);
        if footer.disk_type() == DiskType::Fixed {
            let FooterPlace::End(end) = place else {
                return Err(DiskError::corrupt("read the VHD footer", "a fixed disk has none at its end"));
            };
            if footer.size() > end {
                let reason = format!("the disk has {} bytes, its file only {end} before the footer", footer.size());
                return Err(DiskError::corrupt("open the fixed VHD", reason));
            }
            return Ok(Self { footer, place, copy_is_good: true, sparse: None });
        }
        let (footer, header, header_offset) = match (read_header(file, &footer).await, copy) {
            (Ok((header, offset)), _) => (footer, header, offset),
            // A crash while the header was rewritten (`link.rs`): the copy points to a whole one.
            (Err(error), Some(copy)) if copy.data_offset() != footer.data_offset() => {
                let (header, offset) = read_header(file, &copy).await.map_err(|_second| error)?;
                (copy, header, offset)
            }
            (Err(error), _) => return Err(error),
        };
        let table = read_table(file, &footer, &header).await?;
        Ok(Self { footer, place, copy_is_good, sparse: Some(SparseMetadata { header, header_offset, table }) })
    }

    /// The structures of the file that are no blocks: (bytes, name).
    fn structures(&self) -> Vec<(Range<u64>, &'static str)> {
        let mut found = Vec::new();
        let Some(sparse) = &self.sparse else { return found };
        found.push((0..FOOTER, "the footer copy"));
        found.push((sparse.header_offset..sparse.header_offset + HEADER, "the header"));
        found.push((sparse.table_range(), "the block table"));
        for locator in sparse.header.locators() {
            let end = locator.offset.saturating_add(locator.length.into());
            found.push((locator.offset..end, "a parent locator"));
        }
        if let FooterPlace::End(offset) = self.place {
            found.push((offset..offset + FOOTER, "the footer"));
        }
        found
    }

    /// The end of everything but the end footer: new blocks go behind it.
    pub(crate) fn end_of_use(&self) -> u64 {
        let Some(sparse) = &self.sparse else { return self.footer.size() };
        let structures = self.structures();
        let used = structures.iter().filter(|(_, name)| *name != "the footer").map(|(range, _)| range.end);
        let blocks = sparse
            .table
            .iter()
            .filter(|sector| **sector != ABSENT)
            .max()
            .map_or(0, |sector| u64::from(*sector) * SECTOR + sparse.stride());
        // Validated images end far below; the bound is for those that only get inspected.
        used.fold(blocks, u64::max).min(1 << 62).next_multiple_of(SECTOR)
    }

    /// Every violation of "inside the file, touching nothing else", at most `limit` of them.
    pub(crate) fn flaws(&self, file_len: u64, limit: usize) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        let Some(sparse) = &self.sparse else { return flaws };
        let end = match self.place {
            FooterPlace::End(offset) => offset,
            FooterPlace::Copy => file_len,
        };
        let mut fixed = self.structures();
        fixed.sort_unstable_by_key(|(range, _)| range.start);
        for (range, name) in &fixed {
            // The footer ends with the file by definition, also one of 511 bytes.
            if range.end > file_len && *name != "the footer" {
                flaws.push(Flaw::Structure(format!("{name} ends behind the file, which has {file_len} bytes")));
            }
        }
        for pair in fixed.windows(2) {
            if pair[0].0.end > pair[1].0.start {
                flaws.push(Flaw::Structure(format!("{} overlaps {}", pair[1].1, pair[0].1)));
            }
        }
        let mut order: Vec<u32> =
            (0..sparse.table.len() as u32).filter(|n| sparse.table[*n as usize] != ABSENT).collect();
        order.sort_unstable_by_key(|block| sparse.table[*block as usize]);
        let mut before = 0;
        let mut next_fixed = 0;
        for block in order {
            let sector = sparse.table[block as usize];
            let start = u64::from(sector) * SECTOR;
            let stop = start + sparse.stride();
            while next_fixed < fixed.len() && fixed[next_fixed].0.end <= start {
                next_fixed += 1;
            }
            let why = if stop > end {
                Some(format!("ends at byte {stop}, behind the last usable byte {end}"))
            } else if start < before {
                Some("overlaps another block".to_owned())
            } else {
                fixed
                    .get(next_fixed)
                    .filter(|(range, _)| range.start < stop)
                    .map(|(_, name)| format!("overlaps {name}"))
            };
            match why {
                Some(why) => flaws.push(Flaw::Block { block, sector, why }),
                None => before = stop,
            }
            if flaws.len() >= limit {
                break;
            }
        }
        flaws
    }
}

impl SparseMetadata {
    /// File bytes of a block: bitmap and data.
    pub(crate) fn stride(&self) -> u64 {
        bitmap_size(self.header.block_size()) + u64::from(self.header.block_size())
    }

    /// The used part of the table, whole sectors.
    pub(crate) fn table_range(&self) -> Range<u64> {
        let offset = self.header.table_offset();
        offset..offset + (self.table.len() as u64 * 4).next_multiple_of(SECTOR)
    }
}

/// The footer at the end: 512 bytes, or 511 as old Virtual PC wrote it.
async fn read_end(file: &dyn File) -> Result<(Footer, FooterPlace)> {
    let len = file.len();
    if len < 2 * FOOTER {
        let reason = format!("the file has {len} bytes, which is too short for a VHD");
        return Err(DiskError::corrupt("read the VHD footer", reason));
    }
    let tail = read_vec(file, len - FOOTER, FOOTER as usize).await?;
    match Footer::parse(&tail) {
        Ok(footer) => Ok((footer, FooterPlace::End(len - FOOTER))),
        Err(error) => match Footer::parse(&tail[1..]) {
            Ok(footer) => Ok((footer, FooterPlace::End(len - FOOTER + 1))),
            Err(_) => Err(error.at(len - FOOTER)),
        },
    }
}

/// The copy at the start, which fixed disks do not have.
async fn read_copy(file: &dyn File) -> Option<Footer> {
    if file.len() < FOOTER {
        return None;
    }
    let head = read_vec(file, 0, FOOTER as usize).await.ok()?;
    Footer::parse(&head).ok().filter(|footer| footer.disk_type() != DiskType::Fixed)
}

async fn read_header(file: &dyn File, footer: &Footer) -> Result<(Header, u64)> {
    let offset = footer.data_offset();
    if offset.checked_add(HEADER).is_none_or(|end| end > file.len()) || offset < FOOTER {
        let reason = format!("the footer says it is at byte {offset}, the file has {}", file.len());
        return Err(DiskError::corrupt("read the VHD header", reason));
    }
    let bytes = read_vec(file, offset, HEADER as usize).await?;
    let header = Header::parse(&bytes, footer.size()).map_err(|error| error.at(offset))?;
    Ok((header, offset))
}

async fn read_table(file: &dyn File, footer: &Footer, header: &Header) -> Result<Vec<u32>> {
    // The header's check has bounded the number of blocks.
    let blocks = footer.size().div_ceil(header.block_size().into());
    let (offset, len) = (header.table_offset(), blocks * 4);
    if offset + len > file.len() {
        let reason = format!("{blocks} entries end behind the file, which has {} bytes", file.len());
        return Err(DiskError::corrupt("read the VHD block table", reason).at(offset));
    }
    let bytes = read_vec(file, offset, len as usize).await?;
    Ok(bytes.chunks_exact(4).map(|entry| u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]])).collect())
}
