//! The reactor of a running VM: one thread that waits on epoll.

use crate::clock::Clock;
use crate::core::Core;
use crate::entropy::Entropy;
use crate::{Reactor, Time};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Owns the loop thread. Dropping it stops the loop.
pub struct HostReactor {
    core: Arc<Core>,
    thread: Option<JoinHandle<()>>,
}

impl HostReactor {
    /// Starts a loop whose VM time is `at` now and runs: zero for a new VM, the saved time for a restored one.
    ///
    /// # Errors
    /// When the host is out of descriptors or threads.
    pub fn start(at: Time) -> io::Result<(HostReactor, Reactor)> {
        let (host, reactor) = HostReactor::start_paused(at)?;
        host.resume();
        Ok((host, reactor))
    }

    /// Like [`HostReactor::start`], with time frozen at `at` until [`HostReactor::resume`].
    ///
    /// # Errors
    /// When the host is out of descriptors or threads.
    pub fn start_paused(at: Time) -> io::Result<(HostReactor, Reactor)> {
        let core = Arc::new(Core::new(Clock::host_paused_at(at), Entropy::Host)?);
        let on_loop = core.clone();
        let thread = std::thread::Builder::new().name("reactor".into()).spawn(move || run(&on_loop))?;
        let reactor = Reactor { core: core.clone() };
        Ok((HostReactor { core, thread: Some(thread) }, reactor))
    }

    /// Freezes VM time: `now` stands still and timers do not fire, while watches and posted tasks are still served. On return
    /// no timer callback is running (unless called from one), so do not call it under a device's lock.
    pub fn pause(&self) {
        self.core.pause();
    }

    /// Lets VM time go on from where it was frozen.
    pub fn resume(&self) {
        self.core.resume();
    }

    /// Another handle.
    pub fn handle(&self) -> Reactor {
        Reactor { core: self.core.clone() }
    }

    /// Ends the loop, waits for its thread (unless called on it) and drops all callbacks and tasks, run or not. Handles that are
    /// left stay usable and do nothing. A panic of a callback, which ended the loop, continues here.
    pub fn stop(mut self) {
        if let Some(Err(panic)) = self.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn join(&mut self) -> Option<std::thread::Result<()>> {
        let thread = self.thread.take()?;
        {
            let mut state = self.core.state.lock();
            state.stopped = true;
            self.core.wake(&mut state);
        }
        if thread.thread().id() == std::thread::current().id() {
            return None;
        }
        Some(thread.join())
    }
}

impl Drop for HostReactor {
    fn drop(&mut self) {
        self.join();
    }
}

fn run(core: &Core) {
    // Also after a panic: whoever waits for something that a callback holds must notice.
    let _clear = ClearOnExit(core);
    while !core.state.lock().stopped {
        core.serve_fds(None);
        // Bounded, so that timers that are always due cannot starve descriptors and tasks.
        let due = core.state.lock().timers.armed();
        for _ in 0..due {
            if !core.fire_one_timer() {
                break;
            }
        }
        core.run_posted();
    }
}

struct ClearOnExit<'a>(&'a Core);

impl Drop for ClearOnExit<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}
