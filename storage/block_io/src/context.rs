//! What tasks of an I/O loop see of it.

use crate::engine::Engine;
use crate::handle::{DiskHandle, IoRemote};
use crate::timers::Timers;
use bulkhead_disk::{Executor, Node, yield_now};
use parking_lot::RwLock;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// The I/O loop as its own tasks see it. Not `Send`; cheap to clone.
#[derive(Clone)]
pub struct IoContext {
    pub(crate) inner: Rc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) executor: Executor,
    pub(crate) engine: Engine,
    pub(crate) remote: IoRemote,
    pub(crate) timers: Timers,
    nodes: RefCell<Vec<Option<Rc<dyn Node>>>>,
    /// Descriptors that tasks wait for, where there is no ring: (descriptor, poll events, who waits).
    pub(crate) watched: RefCell<Vec<(OwnedFd, u32, Waker)>>,
}

impl IoContext {
    pub(crate) fn new(executor: Executor, engine: Engine, remote: IoRemote) -> Self {
        let inner = Inner {
            executor,
            engine,
            remote,
            timers: Timers::default(),
            nodes: RefCell::default(),
            watched: RefCell::default(),
        };
        Self { inner: Rc::new(inner) }
    }

    /// Runs a task on this loop.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.inner.executor.spawn(task);
    }

    /// The loop as other threads see it.
    pub fn remote(&self) -> IoRemote {
        self.inner.remote.clone()
    }

    /// Waits.
    pub async fn sleep(&self, duration: Duration) {
        self.inner.timers.sleep(duration).await;
    }

    /// Monotonic time of the host, for measuring spans.
    pub fn now(&self) -> Duration {
        crate::timers::now()
    }

    /// Waits until `fd` can be read (or has an error or hang-up).
    pub async fn readable(&self, fd: BorrowedFd<'_>) {
        self.poll(fd, libc::POLLIN as u32).await;
    }

    /// Waits until `fd` can be written (or has an error or hang-up).
    pub async fn writable(&self, fd: BorrowedFd<'_>) {
        self.poll(fd, libc::POLLOUT as u32).await;
    }

    async fn poll(&self, fd: BorrowedFd<'_>, mask: u32) {
        if let Engine::Ring(ring) = &self.inner.engine {
            ring.poll(fd.as_raw_fd(), mask).await;
            return;
        }
        // Out of descriptors: the caller's non-blocking call finds out whether there is something to do.
        let Ok(fd) = fd.try_clone_to_owned() else { return yield_now().await };
        let mut fd = Some(fd);
        poll_fn(|context| match fd.take() {
            Some(fd) => {
                self.inner.watched.borrow_mut().push((fd, mask, context.waker().clone()));
                Poll::Pending
            }
            None => Poll::Ready(()),
        })
        .await;
    }

    /// Makes a node of this loop usable from other threads.
    pub fn attach(&self, node: Rc<dyn Node>) -> DiskHandle {
        let facts = Arc::new(RwLock::new(node.facts()));
        let mut nodes = self.inner.nodes.borrow_mut();
        let id = nodes.iter().position(Option::is_none).unwrap_or(nodes.len());
        if id == nodes.len() {
            nodes.push(None);
        }
        nodes[id] = Some(node);
        DiskHandle::new(id, self.remote(), facts)
    }

    /// Ends what [`IoContext::attach`] began: later requests through the handle fail.
    pub fn detach(&self, handle: &DiskHandle) {
        if let Some(slot) = self.inner.nodes.borrow_mut().get_mut(handle.id()) {
            *slot = None;
        }
    }

    /// Shows the node's current facts through the handle (after a resize).
    pub fn refresh(&self, handle: &DiskHandle) {
        if let Some(node) = self.node(handle.id()) {
            handle.set_facts(node.facts());
        }
    }

    pub(crate) fn detach_all(&self) {
        let nodes = self.inner.nodes.take();
        drop(nodes);
    }

    pub(crate) fn node(&self, id: usize) -> Option<Rc<dyn Node>> {
        self.inner.nodes.borrow().get(id).cloned().flatten()
    }
}
