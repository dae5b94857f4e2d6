//! The job that serves a disk over NBD, with limits and changed-block tracking.

use std::cell::RefCell;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::rc::Rc;

use bulkhead_chain::Strictness;
use bulkhead_change_tracking::ChangeTracker;
use bulkhead_disk::{DiskError, LocalFuture, Result};
use bulkhead_image::in_use::DiskInUse;
use bulkhead_nbd::{ContextExtent, Export, Server, StatusContext};
use bulkhead_qos::{Balance, Limits, Qos};
use bulkhead_worker_protocol::image::{ImageFile, ServeLimits, Tracking};
use serde_json::{Value, json};

use crate::files::Files;

/// What to serve, and how.
pub struct Serve {
    pub image: ImageFile,
    pub export: String,
    pub persistent: bool,
    pub tracking: Option<Tracking>,
    pub limits: ServeLimits,
}

/// A bitmap as NBD clients see it: 1 = changed, as in qemu's.
struct DirtyBitmap {
    tracker: Rc<ChangeTracker>,
    name: String,
}

impl StatusContext for DirtyBitmap {
    fn name(&self) -> String {
        format!("qemu:dirty-bitmap:{}", self.name)
    }

    fn extents(&self, range: Range<u64>) -> LocalFuture<'_, Result<Vec<ContextExtent>>> {
        let runs = self.tracker.changes(&self.name, range);
        let extent = |(range, changed): (Range<u64>, bool)| ContextExtent {
            len: range.end - range.start,
            flags: u32::from(changed),
        };
        Box::pin(std::future::ready(runs.map(|runs| runs.into_iter().map(extent).collect())))
    }
}

/// Serves until nobody is connected any more, or the starter says so.
pub async fn serve(files: &mut Files, what: Serve, listener: OwnedFd) -> Result<Value> {
    let mut disk = DiskInUse::chain(files.chain(&what.image, Strictness::default()).await?);
    if let Some(Tracking { file, bitmaps }) = &what.tracking {
        disk.track(files.file(file)?, bitmaps).await?;
    }
    if what.limits != ServeLimits::default() {
        let ServeLimits { max_iops, max_bandwidth } = what.limits;
        // The device is shared with nobody that this process knows of: only the limits count.
        let qos = Qos::new(Balance { enabled: false, ..Balance::default() }, files.context.clone());
        disk.limit(&qos, Limits { max_iops, max_bandwidth, ..Limits::default() });
    }
    let mut export = Export::new(what.export, disk.node().clone());
    export.read_only = what.image.read_only;
    export.description = what.image.path.clone();
    if let Some(tracker) = disk.tracker() {
        let context =
            |name: String| -> Rc<dyn StatusContext> { Rc::new(DirtyBitmap { tracker: tracker.clone(), name }) };
        export.contexts = tracker.bitmaps().into_iter().map(|bitmap| context(bitmap.name)).collect();
    }
    let server = Server::new(vec![export], files.context.clone());
    let failure = Rc::new(RefCell::new(None));
    let (listening, failed) = (server.clone(), failure.clone());
    files.context.spawn(async move {
        if let Err(error) = listening.listen(UnixListener::from(listener)).await {
            *failed.borrow_mut() = Some(error);
        }
    });
    let starter = files.starter.clone();
    server.until(what.persistent, || starter.is_cancelled() || failure.borrow().is_some()).await;
    let closed = disk.close().await;
    match failure.take() {
        Some(error) => Err(DiskError::from_io("accept NBD clients", error)),
        None => closed.map(|()| json!({"served": true})),
    }
}
