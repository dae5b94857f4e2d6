//! One function per job.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::SystemTime;

use bulkhead_block_io::{Cache, IoContext};
use bulkhead_chain::{MergeControl, Strictness, check_link, merge_layers, reconnect};
use bulkhead_disk::{DiskError, ErrorKind, File, Layer, LocalFuture, RawImage, Result};
use bulkhead_image::Control;
use bulkhead_image::compare::{Comparison, compare};
use bulkhead_image::convert::convert;
use bulkhead_image::create::{NewImage, create};
use bulkhead_image::format::{Format, Kind};
use bulkhead_image::open::open_layer;
use bulkhead_vhd::VhdImage;
use bulkhead_vhdx::Vhdx;
use bulkhead_worker_protocol::image::{ImageFile, ImageJob, NewImageFile};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::files::{Files, format, new_guid};
use crate::starter::Starter;
use crate::{mount, report};

/// Does the job and returns what came of it.
pub async fn run(job: ImageJob, descriptors: Vec<OwnedFd>, context: IoContext, starter: Starter) -> Result<Value> {
    let control = starter.clone();
    let control = control.control();
    let mut files = Files::new(descriptors, context, starter);
    match job {
        ImageJob::Create { new, parent } => make(&mut files, &new, parent).await,
        ImageJob::Info { image, chain } => info(&mut files, &image, chain).await,
        ImageJob::Chain { image } => {
            let images = files.images(&image).await?.into_iter();
            Ok(json!({"files": images.map(|image| image.path).collect::<Vec<_>>()}))
        }
        ImageJob::Check { image, repair, drop_damaged, chain } => {
            let mend = if drop_damaged { Mend::AlsoByLoss } else { Mend::WithoutLoss };
            check(&mut files, &image, repair.then_some(mend), chain).await
        }
        ImageJob::Convert { source, new } => convert_to(&mut files, &source, &new, &control).await,
        ImageJob::Compare { a, b } => {
            let a = files.disk(&a).await?;
            let b = files.disk(&b).await?;
            Ok(match compare(&*a, &*b, &control).await? {
                Comparison::Identical => json!({"identical": true, "sameSize": true}),
                Comparison::OnlySizesDiffer { common } => {
                    json!({"identical": true, "sameSize": false, "commonSize": common})
                }
                Comparison::Different { offset } => json!({"identical": false, "firstDifference": offset}),
            })
        }
        ImageJob::Map { image } => {
            let disk = files.disk(&image).await?;
            report::map(&*disk, &control).await
        }
        ImageJob::Bitmaps { file, action } => crate::bitmaps::run(files.file(&file)?, action).await,
        ImageJob::Partitions { image } => {
            let disk = files.disk(&image).await?;
            Ok(report::value(&bulkhead_partitions::read_table(&*disk).await?))
        }
        ImageJob::Mount { image, partition } => mount::run(&mut files, &image, partition).await,
        ImageJob::Compact { image, zeros } => compact(&mut files, &image, zeros, &control).await,
        ImageJob::Resize { image, size, shrink } => resize(&mut files, &image, size, shrink).await,
        ImageJob::Merge { image } => merge(&mut files, &image, &control).await,
        ImageJob::SetParent { image, parent, paths, force } => {
            let child = files.layer(&image).await?;
            let parent = files.layer(&parent).await?;
            reconnect(&*child, &*parent, &paths, force).await?;
            child.close().await?;
            Ok(json!({"parentId": parent.link_id().to_string()}))
        }
        ImageJob::SetIdentity { image, identity } => set_identity(&mut files, &image, identity).await,
        ImageJob::Serve { image, socket, export, cache, persistent, tracking, limits } => {
            let cache = if cache == "direct" { Cache::Direct } else { Cache::Writeback };
            files.set_cache(cache);
            let listener = files.descriptor(socket)?;
            let what = crate::serve::Serve { image, export, persistent, tracking, limits };
            crate::serve::serve(&mut files, what, listener).await
        }
    }
}

/// What a starter asked to be made.
fn new_image(new: &NewImageFile, size: u64) -> Result<NewImage> {
    let kind = Kind::from_name(&new.kind).ok_or_else(|| {
        let reason = format!("there is no kind {}; there are fixed, dynamic and differencing", new.kind);
        DiskError::new(ErrorKind::InvalidInput, "create the image", reason)
    })?;
    #[allow(clippy::disallowed_methods, reason = "a shell: formats note when they were made")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let mut image = NewImage::new(format(&new.file)?, kind, size, now, new_guid());
    image.block_size = new.block_size;
    image.logical_sector = new.logical_sector.unwrap_or(512);
    image.sparse = new.sparse;
    Ok(image)
}

async fn make(files: &mut Files, new: &NewImageFile, parent: Option<(ImageFile, Vec<String>)>) -> Result<Value> {
    let mut image = new_image(new, new.size.unwrap_or(0))?;
    if let Some((parent, paths)) = parent {
        let parent_format = format(&parent)?;
        if parent_format != image.format {
            let reason = format!("a {} child cannot have a {} parent", image.format.name(), parent_format.name());
            return Err(DiskError::new(ErrorKind::InvalidInput, "create the image", reason).with_path(&new.file.path));
        }
        image = image.child_of(&*files.layer(&parent).await?, paths);
    }
    let file = files.file(&new.file)?;
    create(&*file, &image).await?;
    Ok(json!({
        "format": image.format.name(), "kind": image.kind.name(), "size": image.size, "fileSize": file.len(),
    }))
}

async fn convert_to(files: &mut Files, source: &ImageFile, new: &NewImageFile, control: &dyn Control) -> Result<Value> {
    let disk = files.disk(source).await?;
    let size = disk.facts().size;
    let mut image = new_image(new, size)?;
    if image.kind == Kind::Differencing {
        let reason = "a conversion makes a disk that stands alone";
        return Err(DiskError::new(ErrorKind::InvalidInput, "convert the disk", reason)
            .advise("use --kind dynamic, or `disk create --parent`"));
    }
    if new.logical_sector.is_none() {
        image.logical_sector = disk.facts().logical_sector;
    }
    let file = files.file(&new.file)?;
    convert(&*disk, file.clone(), &image, control).await?;
    Ok(json!({"format": image.format.name(), "kind": image.kind.name(), "size": size, "fileSize": file.len()}))
}

async fn info(files: &mut Files, image: &ImageFile, chain: bool) -> Result<Value> {
    if !chain {
        let file = files.file(image)?;
        return report::info(format(image)?, file).await;
    }
    let mut images = files.images(image).await?.into_iter();
    let format = format(image)?;
    let mut found = Value::Null;
    if let Some(leaf) = images.next() {
        found = report::info(format, leaf.file).await?;
    }
    let mut parents = Vec::new();
    for parent in images {
        let info = report::info(format, parent.file).await?;
        parents.push(json!({"path": parent.path, "locator": parent.locator, "info": info}));
    }
    found["parents"] = parents.into();
    Ok(found)
}

/// How far a repair goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mend {
    WithoutLoss,
    /// Damaged blocks are given up.
    AlsoByLoss,
}

async fn check(files: &mut Files, image: &ImageFile, repair: Option<Mend>, chain: bool) -> Result<Value> {
    let file = files.file(image)?;
    let mut found = json!({});
    if repair.is_some() {
        found["repaired"] = check_once(image, file.clone(), repair).await?["report"].take();
    }
    let now = check_once(image, file.clone(), None).await?;
    (found["clean"], found["report"]) = (now["clean"].clone(), now["report"].clone());
    if chain {
        let links = files.diagnose(image, file).await?;
        found["chain"] = report::value(&links);
        found["chain"]["whole"] = links.is_whole().into();
    }
    Ok(found)
}

/// What is wrong with one image; with `repair`, what was, before it was mended.
async fn check_once(image: &ImageFile, file: Rc<dyn File>, repair: Option<Mend>) -> Result<Value> {
    Ok(match format(image)? {
        Format::Vhd => {
            let report =
                if repair.is_some() { bulkhead_vhd::repair(file).await? } else { bulkhead_vhd::check(&*file).await? };
            json!({"clean": report.is_clean(), "report": report::value(&report)})
        }
        Format::Vhdx => {
            let options = bulkhead_vhdx::check::CheckOptions {
                repair: repair.is_some(),
                drop_damaged_blocks: repair == Some(Mend::AlsoByLoss),
                new_guid: new_guid(),
            };
            let report = bulkhead_vhdx::check::check(file, options).await?;
            json!({"clean": report.is_clean(), "report": report::value(&report)})
        }
        Format::Raw => json!({"clean": true, "report": {"note": "a raw image has nothing that could be wrong"}}),
        other => return Err(unsupported("check", other, &image.path)),
    })
}

async fn compact(files: &mut Files, image: &ImageFile, zeros: bool, control: &dyn Control) -> Result<Value> {
    let file = files.file(image)?;
    let mut progress = |done, total| control.progress(done, total);
    match format(image)? {
        Format::Vhd => {
            let disk = VhdImage::open(file).await?;
            Ok(report::value(&disk.compact(zeros, &|_| false, &mut progress).await?))
        }
        Format::Vhdx => {
            let done = open_vhdx(file).await?.compact(zeros, &mut progress).await?;
            Ok(json!({
                "droppedBlocks": done.dropped_blocks, "movedBlocks": done.moved_blocks,
                "bytesBefore": done.before, "bytesAfter": done.after,
            }))
        }
        other => Err(unsupported("compact", other, &image.path)),
    }
}

async fn resize(files: &mut Files, image: &ImageFile, size: u64, shrink: bool) -> Result<Value> {
    let file = files.file(image)?;
    let refuse = |old: u64| {
        let reason = format!("it has {old} bytes, more than {size}");
        DiskError::new(ErrorKind::InvalidInput, "resize the disk", reason)
            .with_path(&image.path)
            .advise("add --shrink to cut the end off, if nothing is stored there")
    };
    let check = |old: u64| if size < old && !shrink { Err(refuse(old)) } else { Ok(old) };
    let old = match format(image)? {
        Format::Raw => {
            let disk = RawImage::open(file).await?;
            let old = check(disk.facts().size)?;
            if size < old {
                report::expect_zeros(&disk, size..old).await?;
            }
            disk.resize(size).await?;
            disk.close().await?;
            old
        }
        Format::Vhd => {
            let disk = VhdImage::open(file).await?;
            let old = check(disk.facts().size)?;
            disk.resize(size).await?;
            disk.close().await?;
            old
        }
        Format::Vhdx => {
            let disk = open_vhdx(file).await?;
            let old = check(disk.facts().size)?;
            disk.resize(size).await?;
            disk.close().await?;
            old
        }
        other => return Err(unsupported("resize", other, &image.path)),
    };
    Ok(json!({"oldSize": old, "size": size}))
}

/// Adapts progress to what a merge wants.
struct MergeProgress<'a>(&'a dyn Control);

impl MergeControl for MergeProgress<'_> {
    fn progress(&self, done: u64, total: u64) -> LocalFuture<'_, Result<()>> {
        let goes_on = self.0.progress(done, total);
        Box::pin(async move {
            if goes_on {
                Ok(())
            } else {
                Err(DiskError::new(ErrorKind::Cancelled, "merge the disks", "it was cancelled"))
            }
        })
    }
}

async fn merge(files: &mut Files, image: &ImageFile, control: &dyn Control) -> Result<Value> {
    let child = files.layer(image).await?;
    let found = files.writable_parent(image, &child).await?;
    let parent = open_layer(found.file, format(image)?, new_guid()).await?;
    check_link(&*child, &*parent, Strictness::default())?;
    merge_layers(&*child, &parent, 0, &MergeProgress(control)).await?;
    parent.close().await?;
    Ok(json!({"mergedInto": found.path, "locator": found.locator}))
}

async fn set_identity(files: &mut Files, image: &ImageFile, identity: Option<String>) -> Result<Value> {
    let id = match identity {
        None => Uuid::now_v7(),
        Some(text) => Uuid::try_parse(&text).map_err(|error| {
            DiskError::new(ErrorKind::InvalidInput, "change the identity", format!("{text} is no UUID"))
                .with_source(error)
        })?,
    };
    let file = files.file(image)?;
    match format(image)? {
        Format::Vhd => {
            let disk = VhdImage::open(file).await?;
            disk.set_identity(id).await?;
            disk.close().await?;
        }
        Format::Vhdx => {
            let disk = open_vhdx(file).await?;
            disk.set_identity(id).await?;
            disk.close().await?;
        }
        other => return Err(unsupported("change the identity of", other, &image.path)),
    }
    Ok(json!({"identity": id.to_string()}))
}

async fn open_vhdx(file: Rc<dyn File>) -> Result<Vhdx> {
    let read_only = file.facts().read_only;
    Ok(Vhdx::open(file, bulkhead_vhdx::OpenOptions { read_only, new_guid: new_guid() }).await?.image)
}

fn unsupported(verb: &str, format: Format, path: &str) -> DiskError {
    let reason = format!("this does not work on {} images", format.name());
    DiskError::new(ErrorKind::Unsupported, format!("{verb} the image"), reason).with_path(path)
}
