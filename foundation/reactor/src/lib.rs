//! The reactor: the only source of time, timers, background tasks and randomness for devices.
//!
//! Code in the lower layers gets a [`Reactor`] handle and never sees a thread or the host's clock. Two things drive a handle:
//! [`HostReactor`], one thread on epoll, and [`VirtualReactor`], the deterministic twin whose time moves only when told.
//!
//! All callbacks run one at a time on the loop thread, and the reactor holds none of its own locks meanwhile: a callback may take
//! a device's lock, set timers, add and drop watches. Callbacks should hold a `Weak` to their device; a strong reference lives
//! until the timer or watch is dropped or the reactor stops.

mod clock;
mod core;
mod entropy;
mod host;
mod time;
mod timer;
mod timer_queue;
mod virtual_reactor;
mod watch;

pub use host::HostReactor;
pub use time::Time;
pub use timer::Timer;
pub use virtual_reactor::VirtualReactor;
pub use watch::{Interest, Readiness, Watch};

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// A handle to a VM's reactor. Cheap to clone; usable from every thread.
#[derive(Clone)]
pub struct Reactor {
    core: Arc<core::Core>,
}

impl Reactor {
    /// VM time. It never goes back, and it stands still while the VM is paused.
    pub fn now(&self) -> Time {
        self.core.clock.now()
    }

    /// A new disarmed timer. `callback` gets the VM time of the call, which is at or after the deadline.
    pub fn timer(&self, callback: impl FnMut(Time) + Send + 'static) -> Timer {
        Timer::new(self.core.clone(), Box::new(callback))
    }

    /// Calls `callback` whenever `fd` is ready (level-triggered: again and again until it is drained), until the [`Watch`] is
    /// dropped. The descriptor is duplicated, so the caller may close its own.
    ///
    /// # Errors
    /// `EMFILE` when out of descriptors, `EPERM` for files that are always ready (regular files, directories).
    pub fn watch(
        &self,
        fd: impl AsFd,
        interest: Interest,
        callback: impl FnMut(Readiness) + Send + 'static,
    ) -> io::Result<Watch> {
        Watch::new(self.core.clone(), fd.as_fd(), interest, Box::new(callback))
    }

    /// Runs `task` soon on the loop thread, after all tasks posted before. A stopped reactor drops it.
    pub fn post(&self, task: impl FnOnce() + Send + 'static) {
        self.core.post(Box::new(task));
    }

    /// Fills `buf` with random bytes: the host kernel's, or a seeded sequence on the deterministic twin.
    pub fn entropy(&self, buf: &mut [u8]) {
        self.core.entropy.fill(buf);
    }
}

impl std::fmt::Debug for Reactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reactor(now {})", self.now())
    }
}
