//! Time synchronization: the host's time at a point of the guest's reference counter. After opening and after every pause
//! the guest is told to step its clock; then samples follow, which feed its PTP clock.

use crate::conversation::{Identity, Later, Outcome, Request, Service};
use crate::message::Version;
use crate::saved_state::SavedService;
use bulkhead_reactor::Time;
use bulkhead_vmbus_channel::class;
use std::sync::Arc;
use std::time::Duration;

/// Between samples.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// From 1601-01-01, where the messages count from, to 1970-01-01, in 100 ns.
const UNIX_EPOCH: u64 = 116_444_736_000_000_000;
/// The clock is to be stepped.
const FLAG_SYNC: u8 = 1;
/// A sample for the guest to use as it likes.
const FLAG_SAMPLE: u8 = 2;

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The host's time since 1970.
    pub host: Duration,
    /// The guest's reference counter in 100 ns, as in MSR 0x4000_0020.
    pub reference: u64,
}

/// Reads both clocks at once.
pub type Clocks = Arc<dyn Fn() -> Moment + Send + Sync>;

/// The service.
pub struct TimeSync {
    clocks: Clocks,
    version: Version,
    step: bool,
    next: Option<Time>,
}

impl TimeSync {
    fn message(&mut self) -> Vec<u8> {
        let Moment { host, reference } = (self.clocks)();
        let host = UNIX_EPOCH.saturating_add(u64::try_from(host.as_nanos() / 100).unwrap_or(u64::MAX));
        let flags = if std::mem::take(&mut self.step) { FLAG_SYNC } else { FLAG_SAMPLE };
        let mut data = Vec::with_capacity(25);
        data.extend(host.to_le_bytes());
        if self.version.major >= 4 {
            // Leap indicator, stratum and reserved bytes stay zero.
            data.extend(reference.to_le_bytes());
            data.extend([flags, 0, 0, 0, 0, 0]);
            data.extend([0; 2]);
        } else {
            data.extend([0; 16]);
            data.push(flags);
            data.extend([0; 7]);
        }
        data
    }
}

impl Service for TimeSync {
    const IDENTITY: Identity = Identity {
        name: "time",
        class: class::TIME_SYNC,
        instance: class::TIME_SYNC_INSTANCE,
        message_type: 4,
        frameworks: &[Version::new(3, 0), Version::new(1, 0)],
        messages: &[Version::new(4, 0), Version::new(3, 0), Version::new(1, 0)],
    };

    type Config = Clocks;

    fn new(clocks: Clocks) -> TimeSync {
        TimeSync { clocks, version: Version::new(0, 0), step: false, next: None }
    }

    fn restore(clocks: Clocks, _saved: &SavedService, version: Option<Version>, now: Time) -> TimeSync {
        let mut service = TimeSync::new(clocks);
        if let Some(version) = version {
            (service.version, service.step, service.next) = (version, true, Some(now));
        }
        service
    }

    /// The guest's clock stood still too.
    fn resumed(&mut self, now: Time) {
        if self.version.major > 0 {
            (self.step, self.next) = (true, Some(now));
        }
    }

    fn ready(&mut self, now: Time, version: Version, _later: &mut Later) {
        (self.version, self.step, self.next) = (version, true, Some(now));
    }

    fn closed(&mut self, _now: Time, _later: &mut Later) {
        (self.version, self.step, self.next) = (Version::new(0, 0), false, None);
    }

    fn next_request(&mut self, now: Time, _later: &mut Later) -> Option<Request> {
        self.next.filter(|next| *next <= now)?;
        self.next = None;
        // No time limit: the message says when it was true, so one that is read late does no harm.
        Some(Request { data: self.message(), patience: None })
    }

    fn outcome(&mut self, now: Time, _outcome: Outcome<'_>, _later: &mut Later) {
        let at_once = if self.step { Duration::ZERO } else { INTERVAL };
        self.next = Some(now + at_once);
    }

    fn deadline(&self) -> Option<Time> {
        self.next
    }
}

impl std::fmt::Debug for TimeSync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TimeSync").field("version", &self.version).field("next", &self.next).finish()
    }
}
