//! Disks that are merged into their parents while the VM runs: the starter's part.

use crate::worker::Worker;
use anyhow::{Context, Result};
use bulkhead_worker_protocol::{MergeNews, Request};
use std::path::Path;

/// Has the worker begin a merge.
///
/// # Errors
/// The worker is gone, or refuses.
pub fn begin(worker: &mut Worker, disk: String) -> Result<()> {
    worker.ask(Request::MergeDisk { disk: disk.clone() })?.with_context(|| format!("cannot merge {disk}"))?;
    Ok(())
}

/// Does what the news ask for. The merged file is deleted when its parent holds everything: nobody can take it for the disk
/// then.
///
/// # Errors
/// The worker is gone.
pub fn hear(worker: &mut Worker, disk: String, news: MergeNews) -> Result<()> {
    match news {
        MergeNews::Progress { .. } => {}
        MergeNews::Switching => {
            let deleted = delete(Path::new(&disk));
            if let Err(error) = &deleted {
                eprintln!("bulkhead: {disk} cannot be deleted, so it stays the disk: {error:#}\r");
            }
            worker.tell(Request::SwitchDisk { disk, switched: deleted.is_ok() })?;
        }
        MergeNews::Merged => {
            eprintln!("bulkhead: {disk} is merged into its parent, which is the disk from now on\r");
        }
        MergeNews::Failed(problem) => eprintln!("bulkhead: {disk} is not merged: {problem}\r"),
    }
    Ok(())
}

/// Deletes a file, durably.
fn delete(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = std::fs::File::open(folder).context("cannot open its folder")?;
    std::fs::remove_file(path).context("cannot delete it")?;
    folder.sync_all().context("cannot make the deletion durable")
}
