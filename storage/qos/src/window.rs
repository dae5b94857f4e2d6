//! How much may be in flight, so that the device answers in time; pure.

use std::time::Duration;

/// Units in flight: from one request of 128 KiB to all that fits a worker.
const SMALLEST: u64 = 16;
const LARGEST: u64 = 16 << 10;
const FIRST: u64 = 1024;
/// Growth per interval.
const STEP: u64 = 16;
const INTERVAL: Duration = Duration::from_millis(100);

/// Additive growth, multiplicative shrinking.
#[derive(Debug, Clone)]
pub struct Window {
    pub limit: u64,
    target: Duration,
    /// Moving average of what the device took.
    average: Duration,
    until: Duration,
    /// Somebody had to wait for it in this interval.
    was_full: bool,
}

impl Window {
    pub fn new(target: Duration) -> Self {
        Self { limit: FIRST, target, average: Duration::ZERO, until: Duration::ZERO, was_full: false }
    }

    pub fn note_full(&mut self) {
        self.was_full = true;
    }

    /// A request took `latency` in the device.
    pub fn note_latency(&mut self, latency: Duration, now: Duration) {
        self.average = (self.average * 7 + latency.min(Duration::from_secs(3600))) / 8;
        if now < self.until {
            return;
        }
        if self.average > self.target {
            self.limit = (self.limit * 4 / 5).max(SMALLEST);
        } else if self.was_full {
            self.limit = (self.limit + STEP).min(LARGEST);
        }
        (self.until, self.was_full) = (now + INTERVAL, false);
    }
}
