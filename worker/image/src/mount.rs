//! Disks and partitions as files: the disk is opened here, the starter mounts, requests come through `/dev/fuse`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_chain::Strictness;
use bulkhead_disk::{DiskError, ErrorKind, Node, Result, Stack};
use bulkhead_fuse_export::ExportedFile;
use bulkhead_partitions::{Table, read_table};
use bulkhead_worker_protocol::image::ImageFile;
use crossbeam_channel::{TryRecvError, bounded};
use serde_json::{Value, json};

use crate::files::{Files, format};
use crate::report;

/// How soon the end of the mount, or a cancel, is noticed.
const LOOK: Duration = Duration::from_millis(20);

/// Serves the disk until it is unmounted or the starter is gone, and closes it.
pub async fn run(files: &mut Files, image: &ImageFile, partition: Option<u32>) -> Result<Value> {
    let foreign = format(image)?.foreign().is_some();
    let stack = if foreign { None } else { Some(Rc::new(files.chain(image, Strictness::default()).await?)) };
    let disk: Rc<dyn Node> = match &stack {
        Some(stack) => stack.clone(),
        None => files.disk(image).await?,
    };
    let table = read_table(&*disk).await?;
    let list = exported(&table, disk.facts().size, partition).map_err(|error| error.with_path(&image.path))?;
    let names: Vec<Value> = list.iter().map(|file| json!({"name": file.name, "size": file.size})).collect();
    let device = files.starter.mount(json!({"files": names, "table": report::value(&table)}))?;
    let handle = files.context.attach(disk);
    let (told, ended) = bounded(1);
    let served = Arc::new(handle.clone());
    #[allow(clippy::disallowed_methods, reason = "a shell: this thread waits for the kernel's requests")]
    std::thread::spawn(move || told.send(bulkhead_fuse_export::serve(device, served, list)));
    let outcome = loop {
        match ended.try_recv() {
            Ok(result) => break result,
            Err(TryRecvError::Empty) if files.starter.is_cancelled() => break Ok(()),
            Err(TryRecvError::Empty) => files.context.sleep(LOOK).await,
            Err(TryRecvError::Disconnected) => break Err(std::io::Error::other("its thread ended early")),
        }
    };
    files.context.detach(&handle);
    close(stack.filter(|_| !image.read_only)).await?;
    outcome.map_err(|error| DiskError::from_io("serve the mounted disk", error).with_path(&image.path))?;
    Ok(json!({"unmounted": true}))
}

/// Makes durable what was written; without a stack the disk is read-only.
async fn close(stack: Option<Rc<Stack>>) -> Result<()> {
    match stack {
        Some(stack) => stack.top().close().await,
        None => Ok(()),
    }
}

/// One file for the disk and one per partition, or only the one that is asked for.
fn exported(table: &Table, size: u64, only: Option<u32>) -> Result<Vec<ExportedFile>> {
    let whole = ExportedFile { name: "disk.raw".into(), start: 0, size };
    let parts = table.partitions.iter().map(|part| {
        let name = format!("partition{}.raw", part.number);
        (part.number, ExportedFile { name, start: part.start, size: part.size })
    });
    let Some(number) = only else {
        return Ok(std::iter::once(whole).chain(parts.map(|(_, file)| file)).collect());
    };
    let found: Vec<ExportedFile> = parts.filter(|(have, _)| *have == number).map(|(_, file)| file).collect();
    if found.is_empty() {
        let numbers: Vec<String> = table.partitions.iter().map(|part| part.number.to_string()).collect();
        let have = if numbers.is_empty() { "none".into() } else { numbers.join(", ") };
        let reason = format!("there is no partition {number}; the disk has {have}");
        return Err(DiskError::new(ErrorKind::NotFound, "mount the partition", reason));
    }
    Ok(found)
}
