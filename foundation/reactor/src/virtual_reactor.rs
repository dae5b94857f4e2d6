//! The deterministic twin: the same handles and callbacks, with time that moves only when told and no thread of its own.

use crate::clock::Clock;
use crate::core::Core;
use crate::entropy::Entropy;
use crate::{Reactor, Time};
use rustix::fs::Timespec;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Drives a [`Reactor`] by hand: from a counter of guest instructions, or from a test.
pub struct VirtualReactor {
    core: Arc<Core>,
}

impl VirtualReactor {
    /// A reactor at time `at` whose randomness is a fixed function of `seed`.
    ///
    /// # Errors
    /// When the host is out of descriptors.
    pub fn new(at: Time, seed: u64) -> io::Result<(VirtualReactor, Reactor)> {
        let core = Arc::new(Core::new(Clock::virtual_at(at), Entropy::Seeded(seed.into()))?);
        let reactor = Reactor { core: core.clone() };
        Ok((VirtualReactor { core }, reactor))
    }

    /// Another handle.
    pub fn handle(&self) -> Reactor {
        Reactor { core: self.core.clone() }
    }

    /// The deadline of the first armed timer.
    pub fn next_deadline(&self) -> Option<Time> {
        self.core.state.lock().timers.next_deadline()
    }

    /// Moves time to `at` (never back), stopping at every deadline on the way to fire that timer: in the order of deadlines, then
    /// of creation. Posted tasks run before the first and after each timer.
    pub fn advance_to(&mut self, at: Time) {
        self.run_posted();
        while let Some(deadline) = self.next_deadline().filter(|deadline| *deadline <= at) {
            self.core.clock.move_to(deadline);
            self.core.fire_one_timer();
            self.run_posted();
        }
        self.core.clock.move_to(at);
    }

    /// Runs posted tasks until there are none left, those included that tasks post.
    pub fn run_posted(&mut self) {
        while self.core.run_posted() > 0 {}
    }

    /// Calls the watches that are ready now, in the order of their creation, then runs posted tasks. Returns how many were called.
    pub fn poll_fds(&mut self) -> usize {
        self.serve(Some(Duration::ZERO))
    }

    /// Like [`VirtualReactor::poll_fds`], but waits up to `timeout` of host time (without limit if `None`) for a descriptor or a
    /// posted task: for when all processors are halted and only the outside can go on. Returns at once when a timer is due.
    pub fn wait_fds(&mut self, timeout: Option<Duration>) -> usize {
        self.serve(timeout)
    }

    fn serve(&mut self, timeout: Option<Duration>) -> usize {
        let timeout = timeout.map(|timeout| {
            // epoll refuses more than 2^31 ms.
            let timeout = timeout.min(Duration::from_secs(1_000_000));
            Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() }
        });
        let called = self.core.serve_fds(timeout);
        self.run_posted();
        called
    }
}

impl Drop for VirtualReactor {
    fn drop(&mut self) {
        self.core.clear();
    }
}
