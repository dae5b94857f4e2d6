//! The job on the bitmaps of a change tracking file.

use std::rc::Rc;

use bulkhead_change_tracking::Bitmaps;
use bulkhead_disk::{File, Result};
use bulkhead_worker_protocol::image::BitmapAction;
use serde_json::{Value, json};

/// Changed ranges in one answer; the rest is named by offset.
const MOST_RANGES: usize = 8192;

/// Does what is asked for, and says which bitmaps there are then, or what one of them holds.
pub async fn run(file: Rc<dyn File>, action: BitmapAction) -> Result<Value> {
    let bitmaps = Bitmaps::open(file).await?;
    match action {
        BitmapAction::List => {}
        BitmapAction::Add { name } => bitmaps.add(&name).await?,
        BitmapAction::Fork { name, frozen } => bitmaps.fork(&name, &frozen).await?,
        BitmapAction::Merge { frozen, into } => bitmaps.merge(&frozen, &into).await?,
        BitmapAction::Remove { name } => bitmaps.remove(&name).await?,
        BitmapAction::Changes { name } => return changes(&bitmaps, &name),
    }
    let described = bitmaps
        .bitmaps()
        .into_iter()
        .map(|bitmap| json!({"name": bitmap.name, "tracking": bitmap.tracking, "changed": bitmap.changed}));
    Ok(json!({"size": bitmaps.disk_size(), "bitmaps": described.collect::<Vec<_>>()}))
}

fn changes(bitmaps: &Bitmaps, name: &str) -> Result<Value> {
    let size = bitmaps.disk_size();
    let runs = bitmaps.changes(name, 0..size)?.into_iter().filter(|(_, changed)| *changed).map(|(range, _)| range);
    let (mut ranges, mut total, mut cut) = (Vec::new(), 0, None);
    for range in runs {
        total += range.end - range.start;
        if ranges.len() < MOST_RANGES {
            ranges.push(json!({"start": range.start, "length": range.end - range.start}));
        } else {
            cut.get_or_insert(range.start);
        }
    }
    Ok(json!({"size": size, "changed": total, "ranges": ranges, "cutAt": cut}))
}
