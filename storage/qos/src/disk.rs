//! A node that asks the scheduler, on an I/O loop.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Poll, Waker};

use bulkhead_block_io::IoContext;
use bulkhead_disk::{Completion, DiskFacts, LocalFuture, Node, Request, Result, StatusExtent};

use crate::scheduler::{Balance, FlowId, FlowStats, Limits, Scheduler, Ticket};

/// The disks of one I/O loop that share a device.
#[derive(Clone)]
pub struct Qos(Rc<Shared>);

struct Shared {
    scheduler: RefCell<Scheduler>,
    context: IoContext,
    /// Requests that wait for their start: who to wake; None = it may start.
    waiting: RefCell<BTreeMap<Ticket, Option<Waker>>>,
    /// A timer runs for the next limit that is over.
    is_timed: Cell<bool>,
}

/// A disk behind a balancer and its own limits.
pub struct QosDisk {
    node: Rc<dyn Node>,
    qos: Qos,
    flow: FlowId,
}

/// A request's place in the scheduler; dropping it gives it up.
struct Place<'a> {
    shared: &'a Rc<Shared>,
    ticket: Ticket,
}

impl Qos {
    /// For the disks of this loop.
    pub fn new(balance: Balance, context: IoContext) -> Self {
        let scheduler = RefCell::new(Scheduler::new(balance));
        Self(Rc::new(Shared { scheduler, context, waiting: RefCell::default(), is_timed: Cell::new(false) }))
    }

    /// Puts a disk behind the balancer.
    pub fn disk(&self, node: Rc<dyn Node>, limits: Limits) -> QosDisk {
        let flow = self.0.scheduler.borrow_mut().add(limits);
        QosDisk { node, qos: self.clone(), flow }
    }
}

impl Shared {
    /// Starts what may start, and comes back when a limit is over.
    fn pump(self: &Rc<Self>) {
        let now = self.context.now();
        loop {
            let Some(ticket) = self.scheduler.borrow_mut().start(now) else { break };
            let waker = self.waiting.borrow_mut().remove(&ticket).flatten();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        let Some(at) = self.scheduler.borrow().wake_at(now) else { return };
        if self.is_timed.replace(true) {
            return;
        }
        let shared = self.clone();
        self.context.spawn(async move {
            shared.context.sleep(at.saturating_sub(now)).await;
            shared.is_timed.set(false);
            shared.pump();
        });
    }
}

impl Place<'_> {
    /// Waits for the start.
    async fn started(&self) {
        poll_fn(|context| match self.shared.waiting.borrow_mut().get_mut(&self.ticket) {
            Some(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(()),
        })
        .await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shared.waiting.borrow_mut().remove(&self.ticket);
        let now = self.shared.context.now();
        self.shared.scheduler.borrow_mut().finish(self.ticket, now);
        self.shared.pump();
    }
}

impl QosDisk {
    /// Changes what the disk may get, from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.qos.0.scheduler.borrow_mut().set_limits(self.flow, limits);
        self.qos.0.pump();
    }

    /// What the disk got so far.
    pub fn stats(&self) -> FlowStats {
        self.qos.0.scheduler.borrow().stats(self.flow)
    }
}

impl Drop for QosDisk {
    fn drop(&mut self) {
        self.qos.0.scheduler.borrow_mut().remove(self.flow);
    }
}

impl Node for QosDisk {
    fn facts(&self) -> DiskFacts {
        self.node.facts()
    }

    fn run(&self, request: Request) -> LocalFuture<'_, Completion> {
        Box::pin(async move {
            let shared = &self.qos.0;
            // What carries no data costs the device about as much as one unit, however long its range.
            let bytes = match &request {
                Request::Read { buffer, .. } | Request::Write { buffer, .. } => buffer.len() as u64,
                Request::Flush | Request::Discard { .. } | Request::WriteZeroes { .. } => 0,
            };
            let ticket = shared.scheduler.borrow_mut().submit(self.flow, bytes, shared.context.now());
            shared.waiting.borrow_mut().insert(ticket, None);
            let place = Place { shared, ticket };
            shared.pump();
            place.started().await;
            self.node.run(request).await
        })
    }

    fn status(&self, range: Range<u64>) -> LocalFuture<'_, Result<Vec<StatusExtent>>> {
        self.node.status(range)
    }
}
