//! Small asynchronous pieces for code on one thread: boxed futures, join, locks, flush coalescing.

use crate::Result;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A boxed future of one thread.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Runs a future whose files answer at once (memory, synchronous files): tests, deterministic mode, short tools.
///
/// # Panics
/// When the future waits for something outside itself: it was given a file that needs an I/O loop.
pub fn run_now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    // Yields are legal, so a few turns are allowed; a future that waits for an event never gets ready here.
    for _ in 0..1_000_000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
    panic!("run_now: the future waits for an event; run it on an executor")
}

/// Gives other tasks a turn.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs all futures at once; results in the order of the futures.
pub async fn join_all<'a, T>(mut futures: Vec<LocalFuture<'a, T>>) -> Vec<T> {
    if futures.len() == 1 {
        // The common case: no bookkeeping.
        return vec![futures.remove(0).await];
    }
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    let mut left: Vec<Option<LocalFuture<'a, T>>> = futures.into_iter().map(Some).collect();
    poll_fn(|context| {
        let mut pending = false;
        for (slot, result) in left.iter_mut().zip(&mut results) {
            let Some(future) = slot else { continue };
            match future.as_mut().poll(context) {
                Poll::Ready(value) => {
                    *result = Some(value);
                    *slot = None;
                }
                Poll::Pending => pending = true,
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    results.into_iter().flatten().collect()
}

/// Wakes everybody who waits.
#[derive(Default, Debug)]
pub struct Notify {
    round: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Notify {
    /// Wakes all current waiters.
    pub fn notify_all(&self) {
        self.round.set(self.round.get() + 1);
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    /// Waits for the next [`Notify::notify_all`] after the first poll.
    pub async fn wait(&self) {
        let mut start = None;
        poll_fn(|context| {
            let round = self.round.get();
            if *start.get_or_insert(round) != round {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// A fair lock that may be held across `await`.
#[derive(Default, Debug)]
pub struct LocalLock {
    state: Rc<LockState>,
}

#[derive(Default, Debug)]
struct LockState {
    held: Cell<bool>,
    next: Cell<u64>,
    waiting: RefCell<VecDeque<(u64, Waker)>>,
}

/// Holds the lock until dropped.
#[derive(Debug)]
pub struct LocalLockGuard {
    state: Rc<LockState>,
}

impl LocalLock {
    /// Waits for its turn.
    pub async fn lock(&self) -> LocalLockGuard {
        let mut ticket = Ticket { state: &self.state, number: None };
        poll_fn(|context| ticket.poll(context)).await;
        LocalLockGuard { state: Rc::clone(&self.state) }
    }

    /// Takes it when nobody holds it or waits for it.
    pub fn try_lock(&self) -> Option<LocalLockGuard> {
        if self.state.held.get() || !self.state.waiting.borrow().is_empty() {
            return None;
        }
        self.state.held.set(true);
        Some(LocalLockGuard { state: Rc::clone(&self.state) })
    }
}

/// A place in the queue; dropping it (a dropped future) leaves the queue.
struct Ticket<'a> {
    state: &'a LockState,
    number: Option<u64>,
}

impl Ticket<'_> {
    fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        let mut waiting = self.state.waiting.borrow_mut();
        let first = waiting.front().is_none_or(|(number, _)| Some(*number) == self.number);
        if !self.state.held.get() && first {
            if self.number.take().is_some() {
                waiting.pop_front();
            }
            self.state.held.set(true);
            return Poll::Ready(());
        }
        match self.number {
            Some(number) => {
                if let Some(entry) = waiting.iter_mut().find(|(other, _)| *other == number) {
                    entry.1 = context.waker().clone();
                }
            }
            None => {
                let number = self.state.next.get();
                self.state.next.set(number + 1);
                waiting.push_back((number, context.waker().clone()));
                self.number = Some(number);
            }
        }
        Poll::Pending
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.state.waiting.borrow_mut().retain(|(other, _)| *other != number);
            wake_first(self.state);
        }
    }
}

impl Drop for LocalLockGuard {
    fn drop(&mut self) {
        self.state.held.set(false);
        wake_first(&self.state);
    }
}

fn wake_first(state: &LockState) {
    if let Some((_, waker)) = state.waiting.borrow().front() {
        waker.wake_by_ref();
    }
}

/// Merges concurrent flushes: one runs, everybody who came meanwhile shares the next one.
#[derive(Default, Debug)]
pub struct FlushGate {
    started: Cell<u64>,
    finished: RefCell<Option<(u64, Result<()>)>>,
    lock: LocalLock,
}

impl FlushGate {
    /// Returns the result of a run of `flush` that started after this call.
    ///
    /// # Errors
    /// Those of `flush`, the same for everybody who shared the run.
    pub async fn run<F: Future<Output = Result<()>>>(&self, flush: impl FnOnce() -> F) -> Result<()> {
        let came = self.started.get();
        let guard = self.lock.lock().await;
        if let Some((number, result)) = &*self.finished.borrow()
            && *number > came
        {
            return result.clone();
        }
        let number = self.started.get() + 1;
        self.started.set(number);
        let result = flush().await;
        *self.finished.borrow_mut() = Some((number, result.clone()));
        drop(guard);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Executor, TaskWake};
    use std::sync::Arc;

    #[test]
    fn lock_is_fair_and_survives_dropped_waiters() {
        let lock = Rc::new(LocalLock::default());
        let order = Rc::new(RefCell::new(Vec::new()));
        let executor = Executor::new(Arc::new(TaskWake::default()));
        let held = lock.try_lock().unwrap();
        for name in 0..3 {
            let (lock, order) = (Rc::clone(&lock), Rc::clone(&order));
            executor.spawn(async move {
                let _guard = lock.lock().await;
                yield_now().await;
                order.borrow_mut().push(name);
            });
        }
        executor.run_ready();
        {
            let mut dropped = Box::pin(lock.lock());
            assert!(dropped.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        drop(held);
        executor.run_ready();
        assert_eq!(*order.borrow(), [0, 1, 2]);
        assert!(lock.try_lock().is_some());
    }

    #[test]
    fn flushes_share_the_next_run_but_never_one_that_already_started() {
        let gate = Rc::new(FlushGate::default());
        let runs = Rc::new(Cell::new(0));
        let executor = Executor::new(Arc::new(TaskWake::default()));
        for _ in 0..5 {
            let (gate, runs) = (Rc::clone(&gate), Rc::clone(&runs));
            executor.spawn(async move {
                gate.run(|| async {
                    yield_now().await;
                    runs.set(runs.get() + 1);
                    Ok(())
                })
                .await
                .unwrap();
            });
        }
        executor.run_ready();
        assert_eq!(runs.get(), 2, "the first alone, the other four together");
    }

    #[test]
    fn join_keeps_order() {
        let futures: Vec<LocalFuture<'_, u32>> = vec![
            Box::pin(async {
                yield_now().await;
                1
            }),
            Box::pin(async { 2 }),
        ];
        assert_eq!(run_now(join_all(futures)), [1, 2]);
    }
}
