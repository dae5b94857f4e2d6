//! A disk into a new image of another format or kind.

use std::rc::Rc;

use bulkhead_disk::{BlockKind, File, Node, Result, Stack};

use crate::copy::{Zeros, copy};
use crate::create::{NewImage, create};
use crate::format::{Format, Kind};
use crate::{Control, open};

/// Creates the image `new` in the empty file, fills it with `source`, and closes it. `new.size` is the source's.
///
/// # Errors
/// Those of creating and copying. The file is then unfinished, and no image that should be kept.
pub async fn convert(source: &dyn Node, file: Rc<dyn File>, new: &NewImage, control: &dyn Control) -> Result<()> {
    let mut new = NewImage { size: source.facts().size, ..new.clone() };
    if new.kind == Kind::Dynamic && new.block_size.is_none() {
        new.block_size = denser_blocks(source, new.format).await?;
    }
    create(&*file, &new).await?;
    let layer = open::open_layer(file, new.format, new.new_guid.clone()).await?;
    let target = Stack::new(vec![layer.clone()]);
    copy(source, &target, Zeros::Skip, control).await?;
    layer.close().await
}

/// Larger disks keep the usual blocks: the table of smaller ones would need too much memory.
const MOST_FOR_SMALL_BLOCKS: u64 = 1 << 40;
/// Block status is asked for this much at a time.
const WINDOW: u64 = 1 << 30;

/// The smallest sensible block size, if the usual one would make the file more than a twentieth longer: data in small pieces.
async fn denser_blocks(source: &dyn Node, format: Format) -> Result<Option<u32>> {
    const USUAL: u64 = 2 << 20;
    let small: u64 = match format {
        Format::Vhd => 512 << 10,
        Format::Vhdx => 1 << 20,
        _ => return Ok(None),
    };
    let total = source.facts().size;
    if total > MOST_FOR_SMALL_BLOCKS {
        return Ok(None);
    }
    let mut lengths = [(small, 0, 0), (USUAL, 0, 0)];
    let mut at = 0;
    while at < total {
        let end = total.min(at + WINDOW);
        for extent in source.status(at..end).await? {
            if extent.kind != BlockKind::Data {
                continue;
            }
            for (block, length, counted) in &mut lengths {
                // `counted`: the end of the blocks that are in the length already.
                let start = (extent.range.start / *block * *block).max(*counted);
                *counted = extent.range.end.next_multiple_of(*block).max(*counted);
                *length += *counted - start.min(*counted);
            }
        }
        at = end;
    }
    let [(_, small_length, _), (_, usual_length, _)] = lengths;
    Ok((usual_length > small_length + small_length / 20).then_some(small as u32))
}
