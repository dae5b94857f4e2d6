//! A disk that somebody uses for a while: its chain, behind changed-block tracking and limits where they are wanted.

use std::rc::Rc;

use bulkhead_change_tracking::{ChangeTracker, Stamp};
use bulkhead_disk::{DiskError, ErrorKind, File, MetadataCounters, Node, Result, Stack};
use bulkhead_qos::{Limits, Qos};

/// See the module.
pub struct DiskInUse {
    stack: Option<Rc<Stack>>,
    node: Rc<dyn Node>,
    tracker: Option<Rc<ChangeTracker>>,
}

/// Counters of a disk since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskCounters {
    /// Disks in its chain.
    pub depth: usize,
    /// Read requests.
    pub reads: u64,
    /// Writes, discards and zeroings.
    pub writes: u64,
    /// Lookups of where bytes are, in all disks of the chain.
    pub metadata: MetadataCounters,
}

impl DiskInUse {
    /// A chain.
    pub fn chain(stack: Stack) -> Self {
        let stack = Rc::new(stack);
        Self { node: stack.clone(), stack: Some(stack), tracker: None }
    }

    /// A disk that is only read: an image of another product.
    pub fn read_only(node: Rc<dyn Node>) -> Self {
        Self { stack: None, node, tracker: None }
    }

    /// Notes what is written from now on in `file`, which is empty or of an earlier time; begins the bitmaps that are not
    /// there.
    ///
    /// # Errors
    /// `InvalidInput` for a disk that does not change, and those of the tracker.
    pub async fn track(&mut self, file: Rc<dyn File>, bitmaps: &[String]) -> Result<()> {
        let Some(stack) = self.stack.as_ref().filter(|stack| !stack.facts().read_only) else {
            let reason = "a disk that is used read-only does not change";
            return Err(DiskError::new(ErrorKind::InvalidInput, "track changes", reason).with_path(file.path()));
        };
        let top = stack.top();
        let stamp = Stamp { now: top.link_id(), next: top.next_link_id() };
        let tracker = ChangeTracker::open(self.node.clone(), file, stamp).await?;
        let there: Vec<String> = tracker.bitmaps().into_iter().map(|bitmap| bitmap.name).collect();
        for name in bitmaps.iter().filter(|name| !there.contains(name)) {
            tracker.add(name).await?;
        }
        let tracker = Rc::new(tracker);
        (self.node, self.tracker) = (tracker.clone(), Some(tracker));
        Ok(())
    }

    /// Puts it behind limits. Whatever is added later is inside them.
    pub fn limit(&mut self, qos: &Qos, limits: Limits) {
        self.node = Rc::new(qos.disk(self.node.clone(), limits));
    }

    /// The disk as its user sees it.
    pub fn node(&self) -> &Rc<dyn Node> {
        &self.node
    }

    /// Its chain; none for images of other products.
    pub fn stack(&self) -> Option<&Rc<Stack>> {
        self.stack.as_ref()
    }

    /// What it was asked for, and what its lookups have cost; `None` for images of other products.
    pub fn counters(&self) -> Option<DiskCounters> {
        let stack = self.stack.as_ref()?;
        let layers = stack.layers();
        let (reads, writes) = stack.requests();
        let mut counters = DiskCounters { depth: layers.len(), reads, writes, metadata: MetadataCounters::default() };
        for found in layers.iter().map(|layer| layer.metadata_counters()) {
            counters.metadata.reads += found.reads;
            counters.metadata.hits += found.hits;
        }
        Some(counters)
    }

    /// Its bitmaps.
    pub fn tracker(&self) -> Option<&Rc<ChangeTracker>> {
        self.tracker.as_ref()
    }

    /// Makes durable what was written and closes the images cleanly; nothing may run afterwards.
    ///
    /// # Errors
    /// The first failure; the rest is closed all the same.
    pub async fn close(&self) -> Result<()> {
        let Some(stack) = self.stack.as_ref().filter(|stack| !stack.facts().read_only) else { return Ok(()) };
        // The disk first: what it shows afterwards is what the bitmaps belong to.
        let top = stack.top();
        let closed = stack.close().await;
        match &self.tracker {
            Some(tracker) if closed.is_ok() => tracker.close(top.link_id()).await,
            // The next tracker finds another state than the last one that it knows, and counts it as changed.
            _ => closed,
        }
    }
}
