//! Looks for damage, and repairs what can be repaired without guessing.

use crate::footer::FOOTER;
use crate::image::VhdImage;
use crate::link::read_link;
use crate::read_metadata::{ABSENT, Flaw, FooterPlace, Metadata};
use bulkhead_disk::{DiskError, ErrorKind, File, Layer, Result, SECTOR, write_vec};
use serde::Serialize;
use std::rc::Rc;

/// Most problems that are listed.
const MAX_PROBLEMS: usize = 1000;

/// Something wrong with an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// What, with numbers.
    pub text: String,
    /// The image cannot be opened like this.
    pub fatal: bool,
    /// [`repair`] mends it.
    pub repairable: bool,
    /// Repairing it gives data up (which cannot be reached as it is).
    pub loses_data: bool,
}

/// The result of [`check()`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// What is wrong; empty = clean.
    pub problems: Vec<Problem>,
    /// Blocks of the disk.
    pub blocks: u64,
    /// Blocks in the file.
    pub allocated_blocks: u64,
    /// Bytes of the file that nothing uses (a crash left them, or alignment); compacting gives them back.
    pub unused_bytes: u64,
}

impl CheckReport {
    /// Nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

fn problem(text: impl Into<String>, fatal: bool, repairable: bool, loses_data: bool) -> Problem {
    Problem { text: text.into(), fatal, repairable, loses_data }
}

/// Checks footers, header, table, locators and their places.
///
/// # Errors
/// Those of the file. A file that is no VHD at all is a `Corrupt` error, not a report.
pub async fn check(file: &dyn File) -> Result<CheckReport> {
    let metadata = Metadata::read(file).await?;
    let mut problems = Vec::new();
    let sparse_disk = metadata.sparse.is_some();
    if metadata.place == FooterPlace::Copy {
        let text =
            "the end of the file has no footer (normal after a crash while it grew); the copy at the start counts";
        problems.push(problem(text, false, true, false));
    }
    if sparse_disk && !metadata.copy_is_good {
        problems.push(problem("the footer copy at the start is missing or differs", false, true, false));
    }
    for flaw in metadata.flaws(file.len(), MAX_PROBLEMS) {
        problems.push(match flaw {
            Flaw::Block { block, sector, why } => {
                problem(format!("block {block} at sector {sector} {why}"), true, true, true)
            }
            Flaw::Structure(why) => problem(why, true, false, false),
        });
    }
    let mut report = CheckReport { problems, blocks: 0, allocated_blocks: 0, unused_bytes: 0 };
    if let Some(sparse) = &metadata.sparse {
        if metadata.footer.disk_type() == crate::DiskType::Differencing
            && let Err(error) = read_link(file, &sparse.header).await
        {
            report.problems.push(problem(error.to_string(), true, false, false));
        }
        report.blocks = sparse.table.len() as u64;
        report.allocated_blocks = sparse.table.iter().filter(|sector| **sector != ABSENT).count() as u64;
        let used = sparse.table_range().end + report.allocated_blocks * sparse.stride() + FOOTER;
        report.unused_bytes = file.len().saturating_sub(used);
    }
    Ok(report)
}

/// Repairs what [`check()`] calls repairable and returns what it found before. Blocks that are outside the file or overlap
/// others leave the table: their data could not be told from other data.
///
/// # Errors
/// `Corrupt` when something cannot be repaired (nothing is changed then); those of the file.
pub async fn repair(file: Rc<dyn File>) -> Result<CheckReport> {
    let report = check(&*file).await?;
    if let Some(hopeless) = report.problems.iter().find(|problem| !problem.repairable) {
        return Err(DiskError::corrupt("repair the VHD", hopeless.text.clone())
            .with_path(file.path())
            .advise("restore it from a backup"));
    }
    if report.is_clean() {
        return Ok(report);
    }
    if file.facts().read_only {
        return Err(DiskError::new(ErrorKind::ReadOnly, "repair the VHD", "the file was opened read-only")
            .with_path(file.path()));
    }
    drop_bad_blocks(&*file).await?;
    let metadata = Metadata::read(&*file).await?;
    let footer = metadata.footer.encode();
    let end = match metadata.place {
        FooterPlace::End(offset) if offset + FOOTER == file.len() => offset,
        _ => metadata.end_of_use().max(FOOTER),
    };
    write_vec(&*file, end, &footer).await?;
    file.flush().await?;
    if metadata.sparse.is_some() {
        write_vec(&*file, 0, &footer).await?;
    }
    file.set_len(end + FOOTER).await?;
    file.flush().await?;
    VhdImage::open(Rc::clone(&file)).await?.close().await?;
    Ok(report)
}

/// Repeats until no block is in the way of another: dropping one can free another.
async fn drop_bad_blocks(file: &dyn File) -> Result<()> {
    loop {
        let mut metadata = Metadata::read(file).await?;
        let flaws = metadata.flaws(file.len(), usize::MAX);
        let Some(sparse) = &mut metadata.sparse else { return Ok(()) };
        if flaws.is_empty() {
            return Ok(());
        }
        for flaw in flaws {
            if let Flaw::Block { block, .. } = flaw {
                sparse.table[block as usize] = ABSENT;
            }
        }
        let mut bytes: Vec<u8> = sparse.table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        bytes.resize((bytes.len() as u64).next_multiple_of(SECTOR) as usize, 0xFF);
        write_vec(file, sparse.header.table_offset(), &bytes).await?;
        file.flush().await?;
    }
}
