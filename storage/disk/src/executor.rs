//! A single-threaded executor: tasks, wakers, and nothing else. Whoever owns it decides how to wait.

use parking_lot::Mutex;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

/// The part of an executor that other threads see: which tasks are ready, and how to interrupt its wait.
#[derive(Default)]
pub struct TaskWake {
    ready: Mutex<Vec<usize>>,
    /// The owner sleeps (or is about to): a wake must also call `interrupt`.
    sleeping: AtomicBool,
    interrupt: Option<Box<dyn Fn() + Send + Sync>>,
}

impl TaskWake {
    /// `interrupt` ends the owner's wait (an eventfd write).
    pub fn new(interrupt: impl Fn() + Send + Sync + 'static) -> Self {
        Self { interrupt: Some(Box::new(interrupt)), ..Self::default() }
    }

    /// Called before the owner waits; false = there is work, do not wait.
    pub fn prepare_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        if self.ready.lock().is_empty() {
            return true;
        }
        self.sleeping.store(false, Ordering::SeqCst);
        false
    }

    /// Called after the wait.
    pub fn end_sleep(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Interrupts the wait, if there is one.
    pub fn interrupt(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst)
            && let Some(interrupt) = &self.interrupt
        {
            interrupt();
        }
    }

    fn push(&self, task: usize) {
        self.ready.lock().push(task);
        self.interrupt();
    }
}

struct TaskWaker {
    index: usize,
    queued: AtomicBool,
    wake: Arc<TaskWake>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.wake.push(self.index);
        }
    }
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

struct Slot {
    /// None while it is being polled.
    task: Option<Task>,
    waker: Arc<TaskWaker>,
}

/// Runs futures of one thread. Not `Send`; cheap to clone.
#[derive(Clone)]
pub struct Executor {
    inner: Rc<Inner>,
}

struct Inner {
    slots: RefCell<Vec<Option<Slot>>>,
    free: RefCell<Vec<usize>>,
    live: Cell<usize>,
    wake: Arc<TaskWake>,
}

impl Executor {
    /// An executor whose tasks are woken through `wake`.
    pub fn new(wake: Arc<TaskWake>) -> Self {
        let inner = Inner { slots: RefCell::default(), free: RefCell::default(), live: Cell::new(0), wake };
        Self { inner: Rc::new(inner) }
    }

    /// Adds a task; it runs at the next [`Executor::run_ready`].
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let inner = &self.inner;
        let mut slots = inner.slots.borrow_mut();
        let index = inner.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(None);
            slots.len() - 1
        });
        let waker = Arc::new(TaskWaker { index, queued: AtomicBool::new(true), wake: Arc::clone(&inner.wake) });
        slots[index] = Some(Slot { task: Some(Box::pin(future)), waker });
        inner.live.set(inner.live.get() + 1);
        drop(slots);
        inner.wake.push(index);
    }

    /// Tasks that have not ended.
    pub fn live_tasks(&self) -> usize {
        self.inner.live.get()
    }

    /// Drops all tasks.
    pub fn clear(&self) {
        // Dropping a task may wake or spawn others, so nothing is borrowed meanwhile.
        let slots = std::mem::take(&mut *self.inner.slots.borrow_mut());
        self.inner.free.borrow_mut().clear();
        self.inner.live.set(0);
        drop(slots);
    }

    /// Polls ready tasks until none is ready.
    pub fn run_ready(&self) {
        while self.run_batch() {}
    }

    /// Polls the tasks that are ready now, each once; false = there was none. A loop calls this, so that tasks which wake each
    /// other do not keep it from the kernel's completions.
    pub fn run_batch(&self) -> bool {
        let ready = std::mem::take(&mut *self.inner.wake.ready.lock());
        for index in &ready {
            self.poll(*index);
        }
        !ready.is_empty()
    }

    fn poll(&self, index: usize) {
        let taken = self.inner.slots.borrow_mut().get_mut(index).and_then(Option::as_mut).and_then(|slot| {
            slot.waker.queued.store(false, Ordering::Release);
            slot.task.take().map(|task| (task, Arc::clone(&slot.waker)))
        });
        let Some((mut task, task_waker)) = taken else { return };
        let waker = Waker::from(task_waker);
        let done = task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut slots = self.inner.slots.borrow_mut();
        let Some(slot) = slots.get_mut(index) else { return };
        if done {
            *slot = None;
            self.inner.free.borrow_mut().push(index);
            self.inner.live.set(self.inner.live.get() - 1);
        } else if let Some(slot) = slot {
            slot.task = Some(task);
        }
    }
}
