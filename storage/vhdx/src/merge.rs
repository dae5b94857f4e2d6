//! Merging a differencing image into its parent. The child is only read, so it hides whatever state the parent is in:
//! power can fail at any moment and the merge is simply continued, or done again from the start.

use crate::image::Vhdx;
use bulkhead_disk::{Buffer, DiskError, Durability, ErrorKind, Layer, Place, Result, ZeroMode};

/// Bytes that are copied at once.
const PIECE: u64 = 1 << 20;
/// The parent is flushed, and progress reported, after this many bytes of the disk.
const STEP: u64 = 64 << 20;

impl Vhdx {
    /// Lets this child accept the id that `parent` gets when it is changed: without that, a power cut during the merge
    /// would leave a child that no longer knows its parent. Durable when it returns.
    ///
    /// # Errors
    /// `ParentChanged` when `parent` is not the parent of this child.
    pub async fn prepare_merge(&self, parent: &Self) -> Result<()> {
        let Some(mut link) = self.parent_link() else {
            return Err(DiskError::new(ErrorKind::InvalidInput, "merge the image", "it has no parent"));
        };
        if link.id != parent.link_id() && link.second_id != Some(parent.link_id()) {
            let reason = format!("the parent's id is {}, the child expects {}", parent.link_id(), link.id);
            return Err(DiskError::new(ErrorKind::ParentChanged, "merge the image", reason));
        }
        let next = Some(parent.next_link_id());
        if link.second_id == next || Some(link.id) == next {
            return Ok(());
        }
        link.id = parent.link_id();
        link.second_id = next;
        self.set_parent_link(link).await
    }

    /// Copies what this child holds into `parent`, from byte `from` of the disk on (0, or what `progress` was last told).
    ///
    /// The child must be prepared ([`Vhdx::prepare_merge`]) and must not be written meanwhile. The parent grows to the
    /// child's size. Afterwards the child can be deleted, and its own children linked to the parent.
    ///
    /// # Errors
    /// `Cancelled` when `progress(bytes done, bytes of the disk)` answers `false`; those of the files.
    pub async fn merge_into(&self, parent: &Self, from: u64, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<()> {
        let size = self.facts().size;
        if parent.facts().size < size {
            parent.resize(size).await?;
        }
        let mut at = from.min(size);
        while at < size {
            let end = size.min(at + STEP);
            let mut position = at;
            for extent in self.resolve(at..end).await? {
                match extent.place {
                    Place::File(offset) => self.copy_to(parent, offset, position, extent.len).await?,
                    Place::Zero => parent.zero(position..position + extent.len, ZeroMode::MayFree).await?,
                    Place::Absent => {}
                }
                position += extent.len;
            }
            parent.flush().await?;
            at = end;
            if !progress(at, size) {
                return Err(DiskError::new(ErrorKind::Cancelled, "merge the image", "it was cancelled"));
            }
        }
        parent.flush().await
    }

    async fn copy_to(&self, parent: &Self, source: u64, target: u64, len: u64) -> Result<()> {
        let (from, to) = (self.file(), parent.file());
        let mut done = 0;
        while done < len {
            let piece = PIECE.min(len - done);
            let mut buffer = from.read(source + done, Buffer::zeroed(piece as usize)).await.into_result()?;
            let plan = parent.plan_write(target + done..target + done + piece).await?;
            for extent in plan.extents {
                let rest = buffer.split_off(extent.len as usize);
                to.write(extent.offset, buffer, Durability::Cached).await.result?;
                buffer = rest;
            }
            if let Some(guard) = plan.guard {
                guard.commit().await?;
            }
            done += piece;
        }
        Ok(())
    }
}
