//! The loop of an I/O thread: run what is ready, then wait for the kernel or another thread.

use crate::context::IoContext;
use crate::engine::{Engine, IoMode};
use crate::handle::{IoRemote, Job, gone};
use bulkhead_disk::{Completion, DiskError, Executor, Result, TaskWake};
use bulkhead_linux::EventFd;
use crossbeam_channel::{Receiver, unbounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A loop that is not running yet; made anywhere, turned into an [`IoLoop`] on its thread.
pub struct IoSeed {
    mode: IoMode,
    jobs: Receiver<Job>,
    remote: IoRemote,
    wake: Arc<TaskWake>,
    event: Arc<EventFd>,
}

impl IoSeed {
    /// A seed and, through [`IoSeed::remote`], its remote.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new(mode: IoMode) -> Result<Self> {
        let event = EventFd::new().map_err(|error| DiskError::from_io("start the I/O loop", error))?;
        let event = Arc::new(event);
        let signal = Arc::clone(&event);
        let wake = Arc::new(TaskWake::new(move || {
            // Signalling fails only on something that is no eventfd.
            let _ = signal.signal();
        }));
        let (sender, jobs) = unbounded();
        Ok(Self { mode, jobs, remote: IoRemote::new(sender, Arc::clone(&wake)), wake, event })
    }

    /// For other threads; may be used before the loop runs.
    pub fn remote(&self) -> IoRemote {
        self.remote.clone()
    }

    /// The loop, on the thread that will run it.
    ///
    /// # Errors
    /// The wanted mode is not available here.
    pub fn build(self) -> Result<IoLoop> {
        let engine = Engine::new(self.mode)?;
        let executor = Executor::new(Arc::clone(&self.wake));
        let context = IoContext::new(executor, engine, self.remote);
        Ok(IoLoop {
            context,
            jobs: self.jobs,
            wake: self.wake,
            event: self.event,
            stop: Cell::new(false),
            watching: Cell::new(false),
        })
    }
}

/// The loop of one I/O thread.
pub struct IoLoop {
    context: IoContext,
    jobs: Receiver<Job>,
    wake: Arc<TaskWake>,
    event: Arc<EventFd>,
    stop: Cell<bool>,
    watching: Cell<bool>,
}

impl IoLoop {
    /// A loop for this thread.
    ///
    /// # Errors
    /// The wanted mode is not available here, or out of descriptors.
    pub fn new(mode: IoMode) -> Result<Self> {
        IoSeed::new(mode)?.build()
    }

    /// For tasks.
    pub fn context(&self) -> IoContext {
        self.context.clone()
    }

    /// Runs until [`IoRemote::stop`]. Tasks that have not ended are dropped with the loop.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub fn run(&self) -> Result<()> {
        self.watch_event();
        while !self.stop.get() {
            self.work();
            self.wait()?;
        }
        Ok(())
    }

    /// Runs until `future` ends, other tasks alongside.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub fn run_until<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Result<T> {
        self.watch_event();
        let slot = Rc::new(Cell::new(None));
        let result = Rc::clone(&slot);
        self.context.spawn(async move { result.set(Some(future.await)) });
        loop {
            self.work();
            if let Some(value) = slot.take() {
                return Ok(value);
            }
            self.wait()?;
        }
    }

    /// A ring waits in the kernel for completions only, so the eventfd is watched by a task of its own.
    fn watch_event(&self) {
        if !matches!(self.context.inner.engine, Engine::Ring(_)) || self.watching.replace(true) {
            return;
        }
        let (context, event) = (self.context.clone(), Arc::clone(&self.event));
        self.context.spawn(async move {
            loop {
                context.readable(event.as_ref().as_fd()).await;
                let _ = event.take();
            }
        });
    }

    /// What is ready, and what other threads sent.
    fn work(&self) {
        self.context.inner.executor.run_batch();
        while let Ok(job) = self.jobs.try_recv() {
            self.take(job);
        }
    }

    /// Looks what the kernel finished; waits for it only when nothing is ready.
    fn wait(&self) -> Result<()> {
        if self.stop.get() {
            return Ok(());
        }
        let inner = &self.context.inner;
        let idle = self.wake.prepare_sleep() && self.jobs.is_empty();
        let timeout = if idle { inner.timers.next() } else { Some(Duration::ZERO) };
        let waited = match &inner.engine {
            Engine::Ring(ring) => {
                let waited = ring.wait(timeout);
                // Before tasks are woken: a loop that is awake needs no signal.
                self.wake.end_sleep();
                ring.reap();
                waited
            }
            Engine::Pool(_) | Engine::Inline => self.poll(timeout),
        };
        inner.timers.fire();
        waited.map_err(|error| DiskError::from_io("wait for disk I/O", error))
    }

    /// Waits with poll(2) for the eventfd and watched descriptors.
    fn poll(&self, timeout: Option<Duration>) -> io::Result<()> {
        let watched = self.context.inner.watched.take();
        let mut fds = vec![PollFd::new(&*self.event, PollFlags::IN)];
        for (fd, mask, _) in &watched {
            let flags = PollFlags::from_bits_truncate(*mask as u16);
            fds.push(PollFd::new(fd, flags));
        }
        let timeout = timeout.map(|time| Timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        let waited = poll(&mut fds, timeout.as_ref());
        self.wake.end_sleep();
        let ready: Vec<bool> = fds.iter().skip(1).map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        for ((fd, mask, waker), ready) in watched.into_iter().zip(ready) {
            if ready || waited.is_err() {
                waker.wake();
            } else {
                self.context.inner.watched.borrow_mut().push((fd, mask, waker));
            }
        }
        self.event.take()?;
        match waited {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn take(&self, job: Job) {
        match job {
            Job::Call(work) => work(&self.context),
            Job::Stop => self.stop.set(true),
            Job::Run { node, request, done } => match self.context.node(node) {
                Some(node) => self.context.spawn(async move {
                    let completion = node.run(request).await;
                    done(completion);
                }),
                None => done(Completion::failed(gone(), request.into_buffer())),
            },
            Job::Status { node, range, done } => match self.context.node(node) {
                Some(node) => self.context.spawn(async move { done(node.status(range).await) }),
                None => done(Err(gone())),
            },
        }
    }
}

impl Drop for IoLoop {
    fn drop(&mut self) {
        // Tasks and nodes hold the context that holds them.
        self.context.inner.executor.clear();
        self.context.detach_all();
    }
}
