//! Timers of one I/O loop: a heap of deadlines.

use rustix::time::{ClockId, clock_gettime};
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Deadlines and who waits for them.
#[derive(Default)]
pub(crate) struct Timers {
    heap: RefCell<BinaryHeap<Reverse<(Duration, u64)>>>,
    waiting: RefCell<BTreeMap<u64, Waker>>,
    next: Cell<u64>,
}

/// Monotonic time of the host since boot.
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

impl Timers {
    pub(crate) async fn sleep(&self, duration: Duration) {
        let deadline = now() + duration;
        let id = self.next.get();
        self.next.set(id + 1);
        self.heap.borrow_mut().push(Reverse((deadline, id)));
        poll_fn(|context| {
            if now() >= deadline {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().insert(id, context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Time to the next deadline.
    pub(crate) fn next(&self) -> Option<Duration> {
        let heap = self.heap.borrow();
        heap.peek().map(|Reverse((deadline, _))| deadline.saturating_sub(now()))
    }

    /// Wakes whose deadline has come.
    pub(crate) fn fire(&self) {
        let mut heap = self.heap.borrow_mut();
        if heap.is_empty() {
            return;
        }
        let now = now();
        while let Some(Reverse((deadline, id))) = heap.peek().copied() {
            if deadline > now {
                return;
            }
            heap.pop();
            if let Some(waker) = self.waiting.borrow_mut().remove(&id) {
                waker.wake();
            }
        }
    }
}
