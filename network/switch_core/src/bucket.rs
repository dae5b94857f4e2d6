//! [`TokenBucket`]: a rate, with bursts.

use crate::SECOND;

/// Grants `rate` units per second, and up to `burst` at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    rate: u64,
    burst: u64,
    tokens: u64,
    /// When `tokens` was right, less the fraction of a token that was earned since.
    at: u64,
}

impl TokenBucket {
    /// A full bucket at time `now`. A rate of 0 counts as 1.
    pub fn new(rate: u64, burst: u64, now: u64) -> TokenBucket {
        TokenBucket { rate: rate.max(1), burst, tokens: burst, at: now }
    }

    fn refill(&mut self, now: u64) {
        let earned = u128::from(now.saturating_sub(self.at)) * u128::from(self.rate) / u128::from(SECOND);
        if earned == 0 {
            return;
        }
        let missing = u128::from(self.burst - self.tokens);
        if earned >= missing {
            self.tokens = self.burst;
            self.at = now;
        } else {
            self.tokens += earned as u64;
            self.at += (earned * u128::from(SECOND) / u128::from(self.rate)) as u64;
        }
    }

    /// Takes `amount`, now or not at all. More than the burst is granted when the bucket is full, and owed nothing: frames are
    /// not longer than bursts.
    pub fn take(&mut self, amount: u64, now: u64) -> bool {
        if self.tokens < amount {
            self.refill(now);
        }
        let amount = amount.min(self.burst);
        let granted = self.tokens >= amount;
        if granted {
            self.tokens -= amount;
        }
        granted
    }

    /// When `amount` will be there, if nothing else is taken.
    pub fn ready_at(&self, amount: u64) -> u64 {
        let missing = u128::from(amount.min(self.burst).saturating_sub(self.tokens));
        self.at.saturating_add((missing * u128::from(SECOND)).div_ceil(u128::from(self.rate)) as u64)
    }
}
