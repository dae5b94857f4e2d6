//! Requests that are with disks, and their ends: many at a time, on the reactor's loop.

use crate::Controller;
use crate::commands::CHUNK;
use crate::luns::Users;
use crate::vstor::{Outcome, Srb, srb_answer};
use bulkhead_disk::{Buffer, Completion, Disk, Request};
use bulkhead_guest_log::guest_warn;
use bulkhead_reactor::Reactor;
use bulkhead_scsi_target::Sense;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// Whose work it is.
#[derive(Debug)]
pub(crate) struct Command {
    pub index: u16,
    pub transaction: u64,
    pub request: Srb,
    /// Bytes that the guest is told were moved.
    pub moved: u32,
    /// Of the unit.
    #[allow(dead_code, reason = "it is only there to be dropped")]
    pub users: Users,
}

/// Work that takes more than one request to the disk.
#[derive(Debug)]
pub(crate) enum Job {
    Single,
    /// What is left to discard.
    Discard(VecDeque<Range<u64>>),
    /// What is left to read.
    Verify(Range<u64>),
    /// What is left to write, with a chunk of the pattern.
    Fill {
        range: Range<u64>,
        buffer: Buffer,
    },
}

impl Job {
    pub fn fill(range: Range<u64>, block: &[u8]) -> Job {
        let len = CHUNK.min(range.end - range.start) as usize;
        let pattern: Vec<u8> = block.iter().copied().cycle().take(len).collect();
        Job::Fill { range, buffer: Buffer::copy_of(&pattern) }
    }

    /// The next request; `buffer` is that of the one before.
    pub fn next_request(&mut self, buffer: Option<Buffer>) -> Option<Request> {
        match self {
            Job::Single => None,
            Job::Discard(ranges) => ranges.pop_front().map(|range| Request::Discard { range }),
            Job::Verify(range) => {
                let (offset, len) = take_chunk(range)?;
                let buffer = buffer.filter(|buffer| buffer.len() as u64 == len);
                Some(Request::Read { offset, buffer: buffer.unwrap_or_else(|| Buffer::zeroed(len as usize)) })
            }
            Job::Fill { range, buffer: first } => {
                let mut buffer = buffer.unwrap_or_else(|| std::mem::take(first));
                let (offset, len) = take_chunk(range)?;
                // The last chunk may be shorter; what is cut off is not needed any more.
                let _ = buffer.split_off(len as usize);
                Some(Request::Write { offset, buffer, fua: false })
            }
        }
    }
}

fn take_chunk(range: &mut Range<u64>) -> Option<(u64, u64)> {
    let (offset, len) = (range.start, CHUNK.min(range.end - range.start));
    range.start += len;
    (len > 0).then_some((offset, len))
}

/// A request that ended.
struct Ended {
    command: Command,
    disk: Arc<dyn Disk>,
    job: Job,
    write: bool,
    completion: Completion,
}

/// What disks' threads leave for the loop.
pub(crate) struct Finished {
    reactor: Reactor,
    controller: Mutex<Weak<Mutex<Controller>>>,
    queue: Mutex<Vec<Ended>>,
    /// The loop will look.
    scheduled: AtomicBool,
}

impl Finished {
    pub fn new(reactor: Reactor) -> Arc<Finished> {
        let (controller, queue) = (Mutex::new(Weak::new()), Mutex::default());
        Arc::new(Finished { reactor, controller, queue, scheduled: AtomicBool::new(false) })
    }

    pub fn set_controller(&self, controller: &Arc<Mutex<Controller>>) {
        *self.controller.lock() = Arc::downgrade(controller);
    }

    fn push(self: &Arc<Self>, ended: Ended) {
        self.queue.lock().push(ended);
        if !self.scheduled.swap(true, Ordering::SeqCst) {
            let this = self.clone();
            self.reactor.post(move || this.hand_over());
        }
    }

    fn hand_over(&self) {
        // Cleared first: what is pushed from now on may miss this turn.
        self.scheduled.store(false, Ordering::SeqCst);
        let controller = self.controller.lock().upgrade();
        if let Some(controller) = controller {
            let ended = std::mem::take(&mut *self.queue.lock());
            controller.lock().ended(ended);
        }
    }
}

impl Controller {
    /// Gives a request to a disk.
    pub(crate) fn submit(&mut self, command: Command, disk: Arc<dyn Disk>, job: Job, request: Request) {
        if let Some(slot) = self.slots.get_mut(usize::from(command.index)) {
            slot.in_flight += 1;
        }
        self.in_flight += 1;
        let (finished, write, to) = (self.finished.clone(), request.is_write(), disk.clone());
        to.submit(request, Box::new(move |completion| finished.push(Ended { command, disk, job, write, completion })));
    }

    fn ended(&mut self, requests: Vec<Ended>) {
        for request in requests {
            self.in_flight -= 1;
            if let Some(slot) = self.slots.get_mut(usize::from(request.command.index)) {
                slot.in_flight -= 1;
            }
            self.one_ended(request);
        }
        self.settle();
    }

    fn one_ended(&mut self, ended: Ended) {
        let Ended { command, disk, mut job, write, completion } = ended;
        let outcome = match completion.result {
            Ok(()) => match job.next_request(Some(completion.buffer)) {
                Some(request) => return self.submit(command, disk, job, request),
                None => Outcome::Good(command.moved),
            },
            Err(error) => {
                guest_warn!(self.log, lun = command.request.lun, "a disk request failed: {error}");
                Outcome::Check(Sense::from_disk_error(&error, write))
            }
        };
        self.reply(command.index, command.transaction, &srb_answer(&command.request, outcome));
    }
}
