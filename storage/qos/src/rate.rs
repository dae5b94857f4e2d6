//! A limit per second; pure.

use std::time::Duration;

/// What may be used up at once after a pause: enough to keep queues filled, too little to show in a second's average.
const BURST: Duration = Duration::from_millis(50);

/// Amounts per second, by the time at which everything so far is paid for.
#[derive(Debug, Clone)]
pub struct Rate {
    per_second: u64,
    paid_until: Duration,
}

impl Rate {
    /// `per_second` is at least 1.
    pub fn new(per_second: u64) -> Self {
        Self { per_second: per_second.max(1), paid_until: Duration::ZERO }
    }

    /// When the next request may start. A request may be larger than what is left: it is paid afterwards.
    pub fn ready_at(&self) -> Duration {
        self.paid_until.saturating_sub(BURST)
    }

    /// Takes an amount.
    pub fn take(&mut self, amount: u64, now: Duration) {
        let nanoseconds = u128::from(amount) * 1_000_000_000 / u128::from(self.per_second);
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.paid_until = self.paid_until.max(now).saturating_add(cost);
    }
}
