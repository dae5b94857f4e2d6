//! Folding a layer into its parent, also while the disk is being written.
//!
//! The layer hides whatever state the parent is in, so power may fail at any moment: the merge is continued or done again.

use bulkhead_disk::{
    Buffer, DiskError, ErrorKind, Layer, LocalFuture, Node, ParentLink, Place, Request, Result, Stack,
};
use std::ops::Range;
use std::rc::Rc;

/// Bytes copied at once.
const PIECE: u64 = 1 << 20;
/// The parent is flushed, and progress told, after this many bytes of the disk.
const STEP: u64 = 64 << 20;
/// A pass that found fewer written bytes than this is followed by the last one, under a pause of writes.
const SMALL: u64 = 4 << 20;
/// Most passes over what was written meanwhile: then the pause has to do the rest.
const MAX_PASSES: u32 = 16;

/// Watches and paces a merge.
pub trait MergeControl {
    /// Bytes below `done` of `total` are durably in the parent: a merge that is started again may begin there (not when
    /// merging the top of a running disk). May wait, to leave the device to others.
    ///
    /// Returning an error stops the merge; the disk stays as it was.
    fn progress(&self, done: u64, total: u64) -> LocalFuture<'_, Result<()>>;

    /// Called when the top of a running disk is merged: the parent durably holds everything, and writes wait. Whoever remembers
    /// which file is the disk must durably remember the parent before this returns: later writes go there, and the merged file
    /// gets old.
    ///
    /// Returning an error stops the merge; the disk stays as it was. Without an implementation nobody remembers anything.
    fn switch(&self) -> LocalFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// What to merge.
pub struct Merge {
    /// The layer that goes: it is merged into layer `index + 1` of the stack.
    pub index: usize,
    /// That layer, opened for writing: it takes the place of the read-only one.
    pub parent: Rc<dyn Layer>,
    /// The layer that goes, opened for writing, where the stack has it read-only and its format changes identities (VHDX).
    pub child: Option<Rc<dyn Layer>>,
    /// The layer above, opened for writing, where the stack has it read-only: it is linked anew, and takes the place of the
    /// read-only one.
    pub above: Option<Rc<dyn Layer>>,
    /// How the layer above shall write down the way to the parent: paths, the relative one first.
    pub paths: Vec<String>,
}

/// Merges a layer of the running disk into its parent and takes it out of the stack. When the top is merged, writes go to the
/// parent afterwards. The file of the merged layer is no longer used when this returns; deleting it is the caller's.
///
/// # Errors
/// `InvalidInput` (no such layer, a parent of another size), those of the control and the files. The disk then goes on with
/// the old layers.
pub async fn merge(stack: &Stack, what: Merge, control: &dyn MergeControl) -> Result<()> {
    let (layers, index) = (stack.layers(), what.index);
    let (Some(child), Some(_)) = (layers.get(index), layers.get(index + 1)) else {
        let reason = format!("the chain has {} disks, so number {index} has no parent in it", layers.len());
        return Err(DiskError::new(ErrorKind::InvalidInput, "merge", reason));
    };
    expect_change(&**what.child.as_ref().unwrap_or(child), &*what.parent).await?;
    if index == 0 {
        return merge_top(stack, child, what.parent, control).await;
    }
    copy_layer(&**child, &what.parent, 0, control).await?;
    let above = what.above.unwrap_or_else(|| Rc::clone(&layers[index - 1]));
    above.set_parent_link(link_to(&*what.parent, &what.paths)).await?;
    let mut fresh: Vec<Rc<dyn Layer>> = layers.to_vec();
    fresh.splice(index - 1..index + 2, [above, what.parent]);
    stack.set_layers(fresh);
    Ok(())
}

/// The link that a child of `parent` needs.
pub(crate) fn link_to(parent: &dyn Layer, paths: &[String]) -> ParentLink {
    ParentLink { id: parent.link_id(), second_id: None, timestamp: parent.link_timestamp(), paths: paths.to_vec() }
}

/// The top takes writes: passes over what was written during the pass before, the last one under a pause.
async fn merge_top(
    stack: &Stack,
    child: &Rc<dyn Layer>,
    parent: Rc<dyn Layer>,
    control: &dyn MergeControl,
) -> Result<()> {
    stack.track_writes(true);
    let result = async {
        copy_layer(&**child, &parent, 0, control).await?;
        let target = Stack::new(vec![Rc::clone(&parent)]);
        for _ in 0..MAX_PASSES {
            let written = stack.take_written();
            let bytes: u64 = written.iter().map(|range| range.end - range.start).sum();
            copy_all(&**child, &target, &written).await?;
            if bytes < SMALL {
                break;
            }
        }
        parent.flush().await?;
        let pause = stack.pause_writes().await;
        copy_all(&**child, &target, &stack.take_written()).await?;
        // Everything that the guest was promised is durable in the child; now it is in the parent too.
        parent.flush().await?;
        control.switch().await?;
        let mut fresh: Vec<Rc<dyn Layer>> = stack.layers().to_vec();
        fresh.splice(0..2, [Rc::clone(&parent)]);
        stack.set_layers(fresh);
        drop(pause);
        Ok(())
    }
    .await;
    stack.track_writes(false);
    result
}

async fn copy_all(child: &dyn Layer, target: &Stack, ranges: &[Range<u64>]) -> Result<()> {
    for range in ranges {
        copy_range(child, target, range.clone()).await?;
    }
    Ok(())
}

/// Copies all that `child` holds into `parent`, from byte `from` on (0, or what the control was last told): the merge of disks
/// that nobody uses. The child must not be written meanwhile; it stays valid, and nothing else is linked anew.
///
/// # Errors
/// `InvalidInput` (a smaller parent), those of the control and the files.
pub async fn merge_layers(
    child: &dyn Layer,
    parent: &Rc<dyn Layer>,
    from: u64,
    control: &dyn MergeControl,
) -> Result<()> {
    expect_change(child, &**parent).await?;
    copy_layer(child, parent, from, control).await
}

async fn copy_layer(child: &dyn Layer, parent: &Rc<dyn Layer>, from: u64, control: &dyn MergeControl) -> Result<()> {
    let size = child.facts().size;
    let parent_size = parent.facts().size;
    if parent_size < size {
        let reason = format!("the parent has {parent_size} bytes, the child {size}");
        return Err(DiskError::new(ErrorKind::InvalidInput, "merge", reason)
            .with_path(parent.file().path())
            .advise("grow the parent first"));
    }
    let target = Stack::new(vec![Rc::clone(parent)]);
    let mut at = from.min(size);
    loop {
        let end = (at + STEP).min(size);
        copy_range(child, &target, at..end).await?;
        parent.flush().await?;
        at = end;
        control.progress(at, size).await?;
        if at == size {
            return Ok(());
        }
    }
}

/// Formats whose identity changes with their contents: the child must know the coming id before the first change, or a power cut
/// would leave a child that does not accept its parent.
async fn expect_change(child: &dyn Layer, parent: &dyn Layer) -> Result<()> {
    let next = parent.next_link_id();
    let Some(mut link) = child.parent_link() else { return Ok(()) };
    if next == parent.link_id() || link.second_id == Some(next) {
        return Ok(());
    }
    (link.id, link.second_id) = (parent.link_id(), Some(next));
    child.set_parent_link(link).await
}

async fn copy_range(child: &dyn Layer, target: &Stack, range: Range<u64>) -> Result<()> {
    let file = child.file();
    let mut at = range.start;
    while at < range.end {
        let end = (at + PIECE).min(range.end);
        for extent in child.resolve(at..end).await? {
            let run = at..at + extent.len;
            at = run.end;
            let request = match extent.place {
                Place::Absent => continue,
                Place::Zero => Request::WriteZeroes { range: run, may_unmap: true, fua: false },
                Place::File(offset) => {
                    let buffer = file.read(offset, Buffer::zeroed(extent.len as usize)).await.into_result()?;
                    Request::Write { offset: run.start, buffer, fua: false }
                }
            };
            target.run(request).await.result?;
        }
    }
    Ok(())
}
