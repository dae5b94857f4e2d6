//! What the jobs found, as JSON.

use std::ops::Range;
use std::rc::Rc;

use bulkhead_disk::{BlockKind, DiskError, ErrorKind, File, Layer, Node, RawImage, Result};
use bulkhead_foreign::{ForeignDisk, ForeignFormat};
use bulkhead_image::Control;
use bulkhead_image::format::Format;
use serde_json::{Value, json};

/// Block status is asked for this much at a time.
const WINDOW: u64 = 1 << 30;
/// Extents in one map; the rest is named by offset.
const MOST_EXTENTS: usize = 8192;

/// A report of one of the format crates. Their types hold no maps with odd keys, so this cannot fail.
pub fn value(report: &impl serde::Serialize) -> Value {
    serde_json::to_value(report).unwrap_or(Value::Null)
}

/// All that an image's headers say.
pub async fn info(format: Format, file: Rc<dyn File>) -> Result<Value> {
    let (kind, size, details) = match format {
        Format::Vhd => {
            let found = bulkhead_vhd::inspect(&*file).await?;
            (found.kind, found.size, value(&found))
        }
        Format::Vhdx => {
            let found = bulkhead_vhdx::info::info(file.clone()).await?;
            (found.kind, found.virtual_size, value(&found))
        }
        Format::Raw => {
            let image = RawImage::open(file.clone()).await?;
            ("fixed", image.facts().size, Value::Null)
        }
        Format::Qcow2 => foreign(file.clone(), ForeignFormat::Qcow2).await?,
        Format::Vmdk => foreign(file.clone(), ForeignFormat::Vmdk).await?,
        Format::Vdi => foreign(file.clone(), ForeignFormat::Vdi).await?,
    };
    Ok(json!({
        "path": file.path(), "format": format.name(), "kind": kind, "size": size, "fileSize": file.len(),
        "details": details,
    }))
}

async fn foreign(file: Rc<dyn File>, format: ForeignFormat) -> Result<(&'static str, u64, Value)> {
    let found = ForeignDisk::open(file, format).await?.info();
    Ok((found.kind, found.size, value(&found)))
}

/// Which parts of a disk are stored, and where.
pub async fn map(disk: &dyn Node, control: &dyn Control) -> Result<Value> {
    let size = disk.facts().size;
    let mut extents: Vec<Value> = Vec::new();
    let (mut stored, mut at, mut cut) = (0, 0, None);
    while at < size {
        let end = size.min(at + WINDOW);
        for extent in disk.status(at..end).await? {
            let len = extent.range.end - extent.range.start;
            if extent.kind == BlockKind::Data {
                stored += len;
            }
            let kind = match extent.kind {
                BlockKind::Data => "data",
                BlockKind::Zero => "zero",
                BlockKind::Hole => "hole",
            };
            if joins(extents.last(), &extent.range, kind, extent.layer, extent.file_offset) {
                if let Some(last) = extents.last_mut() {
                    last["length"] = (last["length"].as_u64().unwrap_or(0) + len).into();
                }
            } else if extents.len() < MOST_EXTENTS {
                extents.push(json!({
                    "start": extent.range.start, "length": len, "kind": kind, "depth": extent.layer,
                    "fileOffset": extent.file_offset,
                }));
            } else {
                cut.get_or_insert(extent.range.start);
            }
        }
        at = end;
        if !control.progress(at, size) {
            return Err(DiskError::new(ErrorKind::Cancelled, "map the disk", "it was cancelled"));
        }
    }
    Ok(json!({"size": size, "stored": stored, "extents": extents, "cutAt": cut}))
}

/// Whether an extent continues the last one.
fn joins(last: Option<&Value>, range: &Range<u64>, kind: &str, layer: u16, file_offset: Option<u64>) -> bool {
    let Some(last) = last else { return false };
    let (start, len) = (last["start"].as_u64().unwrap_or(0), last["length"].as_u64().unwrap_or(0));
    let continued = last["fileOffset"].as_u64().map(|offset| offset + len);
    start + len == range.start && last["kind"] == kind && last["depth"] == layer && continued == file_offset
}

/// Refuses to cut data off.
pub async fn expect_zeros(layer: &RawImage, range: Range<u64>) -> Result<()> {
    const PIECE: u64 = 1 << 20;
    let file = layer.file();
    for at in range.clone().step_by(PIECE as usize) {
        let len = PIECE.min(range.end - at) as usize;
        if bulkhead_disk::read_vec(&*file, at, len).await?.iter().any(|&byte| byte != 0) {
            let reason = format!("there is data behind byte {}", range.start);
            return Err(DiskError::new(ErrorKind::WrongState, "shrink the disk", reason).with_path(file.path()));
        }
    }
    Ok(())
}
