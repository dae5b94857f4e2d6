//! One image of a chain: a planner that says where bytes are and keeps metadata; it moves no payload.

use crate::{DiskFacts, File, LocalFuture, Result};
use std::ops::Range;
use std::rc::Rc;
use uuid::Uuid;

/// Where a run of bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the layer's file, from this offset on, contiguous.
    File(u64),
    /// In this layer, as zeros: the parent is not asked.
    Zero,
    /// Not in this layer: ask the parent; without a parent it reads as zeros.
    Absent,
}

/// A run of bytes with one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, never 0.
    pub len: u64,
    /// Where they are.
    pub place: Place,
}

/// A run of payload bytes in the layer's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileExtent {
    /// Bytes, never 0.
    pub len: u64,
    /// File offset of the first.
    pub offset: u64,
}

/// Metadata work that becomes valid when the payload is written. Dropping it uncommitted abandons the write: the range
/// keeps its old meaning, and space taken for it is reused.
pub trait WriteGuard {
    /// The payload is in the file (not yet durable): reads may see it from now on.
    fn commit(self: Box<Self>) -> LocalFuture<'static, Result<()>>;
}

/// Where the payload of one write goes, and what to do afterwards.
#[must_use]
pub struct WritePlan {
    /// Ordered, covering the asked range exactly.
    pub extents: Vec<FileExtent>,
    /// None: the range is already readable there, nothing changes but the data.
    pub guard: Option<Box<dyn WriteGuard>>,
    /// True when payload written with [`crate::Durability::Stable`] is by itself durable: no metadata of this range is
    /// waiting for a flush. Otherwise a FUA write needs a flush of the layer.
    pub stable_in_place: bool,
}

/// How to clear a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroMode {
    /// Must read as zeros, space stays reserved.
    KeepSpace,
    /// Must read as zeros, space may be given back.
    MayFree,
    /// A hint: may read as anything that this disk held there or zeros; frees what it can.
    Discard,
}

/// What a differencing layer says about its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentLink {
    /// What the parent must show as [`Layer::link_id`].
    pub id: Uuid,
    /// A second accepted id (VHDX `parent_linkage2`).
    pub second_id: Option<Uuid>,
    /// The parent's footer timestamp when the child was made (VHD), seconds since 2000-01-01 UTC.
    pub timestamp: Option<u32>,
    /// Paths in the order to try, as written in the image: relative first. Separators are still the image's own.
    pub paths: Vec<String>,
}

/// What looking up where bytes are has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetadataCounters {
    /// Lookups that had to read from the file.
    pub reads: u64,
    /// Lookups that found what they needed in memory.
    pub hits: u64,
}

/// One image of a chain, on one I/O thread.
///
/// Rules for implementers: ranges are checked by the caller (inside the layer's size, sector-aligned) and belong to this
/// layer's own size; a result covers the range exactly, neighbours with touching places are joined; state changes between two
/// `await`s are atomic for everybody else.
pub trait Layer {
    /// Facts of this image alone.
    fn facts(&self) -> DiskFacts;

    /// The file that [`Place::File`] and [`FileExtent`] speak of.
    fn file(&self) -> Rc<dyn File>;

    /// Where `range` is, for reading.
    fn resolve(&self, range: Range<u64>) -> LocalFuture<'_, Result<Vec<Extent>>>;

    /// As [`Layer::resolve`], for block status: may look for holes of the host file (raw, fixed images).
    fn map(&self, range: Range<u64>) -> LocalFuture<'_, Result<Vec<Extent>>> {
        self.resolve(range)
    }

    /// Finds or makes room for a write of `range`. Sectors outside `range` keep their meaning.
    fn plan_write(&self, range: Range<u64>) -> LocalFuture<'_, Result<WritePlan>>;

    /// Clears or forgets `range`. In a differencing layer zeros hide the parent; a discard never lets the parent show through.
    fn zero(&self, range: Range<u64>, mode: ZeroMode) -> LocalFuture<'_, Result<()>>;

    /// Makes everything committed before its first poll durable: payload, then the metadata that points to it.
    fn flush(&self) -> LocalFuture<'_, Result<()>>;

    /// Flushes and leaves the file as a cleanly closed image. Nothing may be called afterwards.
    fn close(&self) -> LocalFuture<'_, Result<()>>;

    /// The id by which children recognise this image: VHD unique id, VHDX data write id.
    fn link_id(&self) -> Uuid {
        Uuid::nil()
    }

    /// The [`Layer::link_id`] that the image will have after its first change since it was opened (formats that change it).
    fn next_link_id(&self) -> Uuid {
        self.link_id()
    }

    /// The timestamp that VHD children compare.
    fn link_timestamp(&self) -> Option<u32> {
        None
    }

    /// Set for a differencing layer, open or not yet given its parent.
    fn parent_link(&self) -> Option<ParentLink> {
        None
    }

    /// Rewrites the link to the parent, durably and atomically (reconnect, merge, move).
    fn set_parent_link(&self, link: ParentLink) -> LocalFuture<'_, Result<()>> {
        let _ = link;
        Box::pin(async {
            Err(crate::DiskError::new(crate::ErrorKind::Unsupported, "set the parent", "this format has no parents"))
        })
    }

    /// What lookups have cost since it was opened; nothing for layers without tables (raw, fixed).
    fn metadata_counters(&self) -> MetadataCounters {
        MetadataCounters::default()
    }

    /// The unit in which this layer allocates, bytes; 0 = it does not (raw, fixed).
    fn block_size(&self) -> u64 {
        0
    }
}
