//! Rate-limited logging for everything that a guest can trigger: a broken or hostile driver must not fill the host's disk.
//!
//! Each device has a [`GuestLog`] and writes with [`guest_warn!`] and its siblings. Past its rate, lines are only counted; when the
//! log opens again, one line tells how many there were.

use bulkhead_reactor::{Reactor, Time, Timer};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

#[doc(hidden)]
pub use tracing;

/// How much a device may log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Lines that may come at once.
    pub burst: u32,
    /// VM time per line in the long run.
    pub interval: Duration,
}

impl Rate {
    /// Enough to show a guest's driver failing, too little to fill a disk: 10 lines at once, one per second in the long run.
    pub const DEVICE: Rate = Rate { burst: 10, interval: Duration::from_secs(1) };
}

/// The log of one device.
#[derive(Debug)]
pub struct GuestLog {
    reactor: Reactor,
    shared: Arc<Shared>,
    /// Fires when the log opens again after lines were suppressed; made with the first of them.
    reopen: OnceLock<Timer>,
}

#[derive(Debug)]
struct Shared {
    device: String,
    rate: Rate,
    bucket: Mutex<Bucket>,
}

/// A token bucket as one number (the generic cell rate algorithm): the time at which the bucket would be full again.
#[derive(Debug, Default)]
struct Bucket {
    full_at: Time,
    suppressed: u64,
}

impl GuestLog {
    /// A log for `device`, named as in the machine (`scsi0`, `com1`), at [`Rate::DEVICE`].
    pub fn new(reactor: &Reactor, device: impl Into<String>) -> GuestLog {
        GuestLog::with_rate(reactor, device, Rate::DEVICE)
    }

    /// A log with its own rate. A burst of 0 counts as 1.
    pub fn with_rate(reactor: &Reactor, device: impl Into<String>, rate: Rate) -> GuestLog {
        let shared = Shared { device: device.into(), rate, bucket: Mutex::default() };
        GuestLog { reactor: reactor.clone(), shared: Arc::new(shared), reopen: OnceLock::new() }
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        &self.shared.device
    }

    /// Takes the place of one line; false when it must not be written. The macros call this.
    pub fn admit(&self) -> bool {
        let now = self.reactor.now();
        let Rate { burst, interval } = self.shared.rate;
        let ahead = interval.saturating_mul(burst.saturating_sub(1));
        let mut bucket = self.shared.bucket.lock();
        let full_at = bucket.full_at.max(now);
        if full_at - now <= ahead {
            bucket.full_at = full_at + interval;
            return true;
        }
        bucket.suppressed += 1;
        let first = bucket.suppressed == 1;
        drop(bucket);
        if first {
            self.reopen.get_or_init(|| self.reopen_timer()).set(full_at - ahead);
        }
        false
    }

    fn reopen_timer(&self) -> Timer {
        let shared = self.shared.clone();
        self.reactor.timer(move |_| shared.report())
    }
}

impl Shared {
    fn report(&self) {
        let suppressed = std::mem::take(&mut self.bucket.lock().suppressed);
        if suppressed > 0 {
            tracing::warn!(device = self.device, suppressed, "{suppressed} lines about the guest were suppressed");
        }
    }
}

/// What was suppressed is reported even if the VM ends before the log opens again.
impl Drop for GuestLog {
    fn drop(&mut self) {
        self.shared.report();
    }
}

/// Logs a line at a level, with the device's name, if the device's rate allows it. The arguments are formatted only then.
#[macro_export]
macro_rules! guest_event {
    ($level:ident, $log:expr, $($message:tt)+) => {{
        let log: &$crate::GuestLog = &$log;
        if $crate::tracing::enabled!($crate::tracing::Level::$level) && log.admit() {
            $crate::tracing::event!($crate::tracing::Level::$level, device = log.device(), $($message)+);
        }
    }};
}

/// The guest did something that it should not: `guest_warn!(self.log, "write of {value:#x} to a read-only register")`.
#[macro_export]
macro_rules! guest_warn {
    ($log:expr, $($message:tt)+) => { $crate::guest_event!(WARN, $log, $($message)+) };
}

/// Something in the guest worth knowing, like a driver's version.
#[macro_export]
macro_rules! guest_info {
    ($log:expr, $($message:tt)+) => { $crate::guest_event!(INFO, $log, $($message)+) };
}

/// Detail for finding out why a guest does not like a device.
#[macro_export]
macro_rules! guest_debug {
    ($log:expr, $($message:tt)+) => { $crate::guest_event!(DEBUG, $log, $($message)+) };
}
