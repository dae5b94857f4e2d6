//! What other threads hold: the remote of a loop, the handle of a disk.

use crate::context::IoContext;
use bulkhead_disk::{Completion, Disk, DiskError, DiskFacts, Done, ErrorKind, Request, StatusDone, TaskWake};
use crossbeam_channel::Sender;
use parking_lot::RwLock;
use std::ops::Range;
use std::sync::Arc;

/// Work that another thread gives to a loop.
pub(crate) enum Job {
    Run { node: usize, request: Request, done: Done },
    Status { node: usize, range: Range<u64>, done: StatusDone },
    Call(Box<dyn FnOnce(&IoContext) + Send>),
    Stop,
}

/// An I/O loop as other threads see it.
#[derive(Clone)]
pub struct IoRemote {
    jobs: Sender<Job>,
    wake: Arc<TaskWake>,
}

impl IoRemote {
    pub(crate) fn new(jobs: Sender<Job>, wake: Arc<TaskWake>) -> Self {
        Self { jobs, wake }
    }

    /// Calls `work` on the loop's thread: to open files, build chains, attach nodes, spawn tasks. False = the loop is gone.
    pub fn call(&self, work: impl FnOnce(&IoContext) + Send + 'static) -> bool {
        self.send(Job::Call(Box::new(work))).is_none()
    }

    /// Makes [`crate::IoLoop::run`] return.
    pub fn stop(&self) {
        self.send(Job::Stop);
    }

    /// Gives the job back when the loop is gone.
    fn send(&self, job: Job) -> Option<Job> {
        match self.jobs.send(job) {
            Ok(()) => {
                self.wake.interrupt();
                None
            }
            Err(refused) => Some(refused.into_inner()),
        }
    }
}

/// A disk that lives on an I/O loop, for any thread. Clones are the same disk.
#[derive(Clone)]
pub struct DiskHandle {
    node: usize,
    remote: IoRemote,
    facts: Arc<RwLock<DiskFacts>>,
}

impl DiskHandle {
    pub(crate) fn new(node: usize, remote: IoRemote, facts: Arc<RwLock<DiskFacts>>) -> Self {
        Self { node, remote, facts }
    }

    pub(crate) fn id(&self) -> usize {
        self.node
    }

    pub(crate) fn set_facts(&self, facts: DiskFacts) {
        *self.facts.write() = facts;
    }
}

pub(crate) fn gone() -> DiskError {
    DiskError::new(ErrorKind::Cancelled, "run the request", "the disk was closed")
}

impl Disk for DiskHandle {
    fn facts(&self) -> DiskFacts {
        self.facts.read().clone()
    }

    fn submit(&self, request: Request, done: Done) {
        let job = Job::Run { node: self.node, request, done };
        if let Some(Job::Run { request, done, .. }) = self.remote.send(job) {
            done(Completion::failed(gone(), request.into_buffer()));
        }
    }

    fn submit_status(&self, range: Range<u64>, done: StatusDone) {
        let job = Job::Status { node: self.node, range, done };
        if let Some(Job::Status { done, .. }) = self.remote.send(job) {
            done(Err(gone()));
        }
    }
}
