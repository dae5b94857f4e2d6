//! VM time: a thread on the host's clock, or a clock of counted instructions that the executor moves.

use bulkhead_reactor::{HostReactor, Reactor, Time, VirtualReactor};
use std::io;

/// What drives the reactor.
pub enum Clock {
    /// Host time.
    Host(HostReactor),
    /// Counted instructions; the executor has taken the reactor.
    Counted,
}

impl Clock {
    /// Host time, standing at `at`.
    ///
    /// # Errors
    /// Out of descriptors or threads.
    pub fn host(at: Time) -> io::Result<(Clock, Reactor)> {
        let (host, reactor) = HostReactor::start_paused(at)?;
        Ok((Clock::Host(host), reactor))
    }

    /// A clock of counted instructions at `at`.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn counted(at: Time) -> io::Result<(Clock, VirtualReactor, Reactor)> {
        // Any fixed seed will do: runs are to be the same, not secret.
        let (driver, reactor) = VirtualReactor::new(at, 0x6275_6c6b_6865_6164)?;
        Ok((Clock::Counted, driver, reactor))
    }

    /// Freezes VM time.
    pub fn pause(&self) {
        if let Clock::Host(host) = self {
            host.pause();
        }
    }

    /// Lets VM time go on.
    pub fn resume(&self) {
        if let Clock::Host(host) = self {
            host.resume();
        }
    }
}
