//! The clock behind `Reactor::now`: the host's monotonic clock plus an offset, or a counter that is moved by hand.

use crate::Time;
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release, Ordering::SeqCst, fence};

/// `frozen` holds this while time runs.
const RUNNING: u64 = u64::MAX;
/// `frozen` holds this while it is being decided where time stops.
const STOPPING: u64 = u64::MAX - 1;

pub(crate) enum Clock {
    /// VM time = CLOCK_MONOTONIC + `offset` (wrapping), or `frozen` while paused.
    Host { offset: AtomicU64, frozen: AtomicU64 },
    /// Moves only by [`Clock::move_to`].
    Virtual(AtomicU64),
}

impl Clock {
    pub fn host_paused_at(at: Time) -> Clock {
        Clock::Host { offset: AtomicU64::new(0), frozen: AtomicU64::new(at.as_nanos().min(STOPPING - 1)) }
    }

    pub fn virtual_at(at: Time) -> Clock {
        Clock::Virtual(AtomicU64::new(at.as_nanos()))
    }

    pub fn now(&self) -> Time {
        let (offset, frozen) = match self {
            Clock::Virtual(nanos) => return Time::from_nanos(nanos.load(Acquire)),
            Clock::Host { offset, frozen } => (offset, frozen),
        };
        loop {
            match frozen.load(Acquire) {
                RUNNING => {}
                STOPPING => {
                    std::thread::yield_now();
                    continue;
                }
                stopped_at => return Time::from_nanos(stopped_at),
            }
            let before = offset.load(Acquire);
            let nanos = monotonic().wrapping_add(before);
            // A pause between the loads would mix two offsets and let time jump: look again.
            if frozen.load(Acquire) == RUNNING && offset.load(Acquire) == before {
                return Time::from_nanos(nanos);
            }
        }
    }

    pub fn is_paused(&self) -> bool {
        matches!(self, Clock::Host { frozen, .. } if frozen.load(Acquire) != RUNNING)
    }

    /// Callers of `pause` and `resume` hold the reactor's state lock.
    pub fn pause(&self) {
        if let Clock::Host { offset, frozen } = self
            && frozen.load(Acquire) == RUNNING
        {
            // From here on nobody gets a time, so nobody gets a later one than that which time stops at.
            frozen.store(STOPPING, SeqCst);
            fence(SeqCst);
            let nanos = monotonic().wrapping_add(offset.load(Acquire));
            frozen.store(nanos.min(STOPPING - 1), Release);
        }
    }

    pub fn resume(&self) {
        if let Clock::Host { offset, frozen } = self {
            let stopped_at = frozen.load(Acquire);
            if stopped_at != RUNNING {
                offset.store(stopped_at.wrapping_sub(monotonic()), Release);
                frozen.store(RUNNING, Release);
            }
        }
    }

    /// Moves a virtual clock; time never goes back.
    pub fn move_to(&self, at: Time) {
        if let Clock::Virtual(nanos) = self {
            nanos.fetch_max(at.as_nanos(), Release);
        }
    }

    /// The host's monotonic clock, in nanoseconds, at VM time `at`; at least 1, because a timerfd takes 0 for "disarm".
    pub fn monotonic_at(&self, at: Time) -> i64 {
        let offset = match self {
            Clock::Host { offset, .. } => offset.load(Acquire).cast_signed(),
            Clock::Virtual(_) => 0,
        };
        let nanos = i128::from(at.as_nanos()) - i128::from(offset);
        i64::try_from(nanos.max(1)).unwrap_or(i64::MAX)
    }
}

fn monotonic() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec.cast_unsigned())
}
