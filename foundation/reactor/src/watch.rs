//! Watched file descriptors: interest, readiness and the handle that ends a watch.

use crate::core::{Core, Running, WatchEntry};
use rustix::event::epoll::{self, EventData, EventFlags};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// What a watch waits for. Hang-up and errors are always reported, except with [`Interest::NONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Wait until there is something to read.
    pub read: bool,
    /// Wait until there is room to write.
    pub write: bool,
}

impl Interest {
    /// Nothing at all: the watch sleeps, for example while a device has no room for more input.
    pub const NONE: Interest = Interest { read: false, write: false };
    /// Input.
    pub const READ: Interest = Interest { read: true, write: false };
    /// Room for output.
    pub const WRITE: Interest = Interest { read: false, write: true };
    /// Both.
    pub const READ_WRITE: Interest = Interest { read: true, write: true };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN | EventFlags::RDHUP, self.read);
        flags.set(EventFlags::OUT, self.write);
        flags
    }
}

/// What a watched descriptor is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// There is input, or end of file.
    pub readable: bool,
    /// There is room for output.
    pub writable: bool,
    /// The other end is gone. There may still be input to read.
    pub hangup: bool,
    /// An error is pending on the descriptor.
    pub error: bool,
}

impl Readiness {
    /// `None` when nothing in `flags` is of interest (any more).
    pub(crate) fn new(flags: EventFlags, interest: Interest) -> Option<Readiness> {
        let hangup = flags.intersects(EventFlags::HUP | EventFlags::RDHUP);
        let readiness = Readiness {
            readable: interest.read && (hangup || flags.contains(EventFlags::IN)),
            writable: interest.write && flags.contains(EventFlags::OUT),
            hangup,
            error: flags.contains(EventFlags::ERR),
        };
        let any = readiness.readable || readiness.writable || hangup || readiness.error;
        (any && interest != Interest::NONE).then_some(readiness)
    }
}

pub(crate) type Callback = Box<dyn FnMut(Readiness) + Send>;

/// A watched descriptor; dropping it ends the watch.
///
/// After the drop the callback is not running and will not run: the drop waits for a running one, except inside the callback
/// itself. So never drop a watch under a lock that its callback takes; `set_interest` does not wait and is safe there.
pub struct Watch {
    core: Arc<Core>,
    id: u64,
}

impl Watch {
    pub(crate) fn new(
        core: Arc<Core>,
        fd: BorrowedFd<'_>,
        interest: Interest,
        callback: Callback,
    ) -> io::Result<Watch> {
        let fd = fd.try_clone_to_owned()?;
        let mut state = core.state.lock();
        state.last_watch += 1;
        let id = state.last_watch;
        if interest != Interest::NONE {
            epoll::add(&core.epoll, &fd, EventData::new_u64(id), interest.flags())?;
        }
        state.watches.insert(id, WatchEntry { fd, interest, callback: Some(callback) });
        drop(state);
        Ok(Watch { core, id })
    }

    /// Waits for something else from now on.
    ///
    /// # Errors
    /// Those of `epoll_ctl`, in practice only lack of kernel memory.
    pub fn set_interest(&self, interest: Interest) -> io::Result<()> {
        let mut state = self.core.state.lock();
        // A stopped reactor has no watches left.
        let Some(entry) = state.watches.get_mut(&self.id) else { return Ok(()) };
        let data = EventData::new_u64(self.id);
        // epoll reports hang-up even with no flags, so a sleeping watch has to leave the set.
        match (entry.interest != Interest::NONE, interest != Interest::NONE) {
            _ if entry.interest == interest => {}
            (true, true) => epoll::modify(&self.core.epoll, &entry.fd, data, interest.flags())?,
            (false, _) => epoll::add(&self.core.epoll, &entry.fd, data, interest.flags())?,
            (true, false) => epoll::delete(&self.core.epoll, &entry.fd)?,
        }
        entry.interest = interest;
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.core.state.lock();
        let entry = state.watches.remove(&self.id);
        if let Some(entry) = entry.as_ref().filter(|entry| entry.interest != Interest::NONE) {
            // Cannot fail for a registered descriptor, and a drop has nobody to tell.
            let _ = epoll::delete(&self.core.epoll, &entry.fd);
        }
        self.core.wait_while_running(state, Running::Watch(self.id));
        // Outside the lock: what the callback captured may own timers and watches itself.
        drop(entry);
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("id", &self.id).finish()
    }
}
