//! The image as a layer of a chain: the disk contract's view.

use super::{Inner, Vhdx};
use crate::format::parent_locator::key;
use bulkhead_disk::{
    DiskFacts, Extent, File, FileExtent, Layer, LocalFuture, MetadataCounters, ParentLink, Place, Result, WritePlan,
    ZeroMode,
};
use std::future::ready;
use std::ops::Range;
use std::rc::Rc;
use uuid::Uuid;

impl Vhdx {
    pub(crate) fn inner(&self) -> &Rc<Inner> {
        &self.inner
    }
}

impl Layer for Vhdx {
    fn facts(&self) -> DiskFacts {
        let state = self.inner.state.borrow();
        let geometry = state.metadata.geometry;
        let fixed = state.metadata.leave_blocks_allocated;
        DiskFacts {
            size: geometry.disk_size(),
            logical_sector: geometry.logical_sector() as u32,
            physical_sector: geometry.physical_sector(),
            read_only: self.inner.read_only,
            discard_granularity: if fixed { 0 } else { geometry.block_size() as u32 },
            identity: state.metadata.page_83,
            geometry: None,
            format: "vhdx",
        }
    }

    fn file(&self) -> Rc<dyn File> {
        Rc::clone(&self.inner.file)
    }

    fn resolve(&self, range: Range<u64>) -> LocalFuture<'_, Result<Vec<Extent>>> {
        if let Some(offset) = self.inner.present_at(&range) {
            let extent = Extent { len: range.end - range.start, place: Place::File(offset) };
            return Box::pin(ready(Ok(vec![extent])));
        }
        Box::pin(async move { self.inner.named(self.inner.resolve(range).await) })
    }

    fn map(&self, range: Range<u64>) -> LocalFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move { self.inner.named(self.inner.map(range).await) })
    }

    fn plan_write(&self, range: Range<u64>) -> LocalFuture<'_, Result<WritePlan>> {
        if self.inner.takes_data()
            && let Some(offset) = self.inner.present_at(&range)
        {
            let extents = vec![FileExtent { len: range.end - range.start, offset }];
            let stable_in_place = self.inner.is_settled();
            return Box::pin(ready(Ok(WritePlan { extents, guard: None, stable_in_place })));
        }
        Box::pin(async move { self.inner.named(self.inner.plan_write(range).await) })
    }

    fn zero(&self, range: Range<u64>, mode: ZeroMode) -> LocalFuture<'_, Result<()>> {
        Box::pin(async move { self.inner.named(self.inner.zero(range, mode).await) })
    }

    fn flush(&self) -> LocalFuture<'_, Result<()>> {
        Box::pin(self.inner.flush_now())
    }

    fn close(&self) -> LocalFuture<'_, Result<()>> {
        Box::pin(async move { self.inner.named(self.inner.close().await) })
    }

    fn metadata_counters(&self) -> MetadataCounters {
        let (hits, reads) = self.inner.state.borrow().cache.counters();
        MetadataCounters { reads, hits }
    }

    fn link_id(&self) -> Uuid {
        self.inner.state.borrow().header.data_write_guid
    }

    fn next_link_id(&self) -> Uuid {
        let state = self.inner.state.borrow();
        if state.data_changed { state.header.data_write_guid } else { state.next_data_write_guid }
    }

    fn parent_link(&self) -> Option<ParentLink> {
        let state = self.inner.state.borrow();
        let locator = state.metadata.parent.as_ref()?;
        Some(ParentLink {
            id: locator.linkage().ok()?,
            second_id: locator.guid(key::LINKAGE_2),
            timestamp: None,
            paths: locator.paths().map(str::to_owned).collect(),
        })
    }

    fn set_parent_link(&self, link: ParentLink) -> LocalFuture<'_, Result<()>> {
        Box::pin(async move { self.inner.named(self.inner.set_parent_link(&link).await) })
    }

    fn block_size(&self) -> u64 {
        let state = self.inner.state.borrow();
        if state.metadata.leave_blocks_allocated { 0 } else { state.metadata.geometry.block_size() }
    }
}
