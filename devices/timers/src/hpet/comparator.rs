//! One comparator: its configuration, and when it matches next.

use super::TICK;
use crate::saved_state::SavedComparator;
use bulkhead_reactor::Time;
use serde_json::json;
use std::ops::Range;
use std::time::Duration;

/// The I/O APIC pins that a comparator can use: those that nothing else on the board does.
pub(super) const PINS: Range<u32> = 20..24;

/// Bits of a comparator's configuration.
pub(super) mod config {
    pub const LEVEL: u32 = 1 << 1;
    pub const INTERRUPT: u32 = 1 << 2;
    pub const PERIODIC: u32 = 1 << 3;
    pub const VALUE_SET: u32 = 1 << 6;
    pub const NARROW: u32 = 1 << 8;
    pub const ROUTE: u32 = 0x1f << 9;
    pub const WRITABLE: u32 = LEVEL | INTERRUPT | PERIODIC | VALUE_SET | NARROW | ROUTE;
    /// Periodic mode and 64 bits are possible.
    pub const CAPABILITIES: u64 = 1 << 4 | 1 << 5;
}

#[derive(Debug)]
pub(super) struct Comparator {
    config: u32,
    pub value: u64,
    period: u64,
    /// When the counter next has the value, if it ever does.
    pub due: Option<Time>,
}

impl Default for Comparator {
    fn default() -> Comparator {
        Comparator { config: 0, value: u64::MAX, period: 0, due: None }
    }
}

impl Comparator {
    pub fn has(&self, bit: u32) -> bool {
        self.config & bit != 0
    }

    /// Index of the used pin in [`PINS`].
    pub fn pin(&self) -> Option<usize> {
        let route = (self.config & config::ROUTE) >> 9;
        PINS.contains(&route).then(|| (route - PINS.start) as usize)
    }

    fn mask(&self) -> u64 {
        if self.has(config::NARROW) { u64::from(u32::MAX) } else { u64::MAX }
    }

    pub fn read_config(&self) -> u64 {
        let routes = PINS.fold(0, |routes, pin| routes | 1u64 << pin);
        routes << 32 | config::CAPABILITIES | u64::from(self.config)
    }

    pub fn write_config(&mut self, mask: u64, value: u64) {
        let old = self.config;
        self.config = (u64::from(old) & !mask | value) as u32 & config::WRITABLE;
        let route = (self.config & config::ROUTE) >> 9;
        if route != 0 && !PINS.contains(&route) {
            // Software finds out what is possible by reading back.
            self.config = self.config & !config::ROUTE | old & config::ROUTE;
        }
        self.value &= self.mask();
        self.period &= self.mask();
    }

    pub fn write_value(&mut self, mask: u64, value: u64) {
        let width = self.mask();
        if !self.has(config::PERIODIC) || self.has(config::VALUE_SET) {
            self.value = (self.value & !mask | value) & width;
        }
        if self.has(config::PERIODIC) {
            self.period = (self.period & !mask | value) & width;
        }
        self.config &= !config::VALUE_SET;
    }

    /// Finds the next match from a counter that has just become `counter`, `into_tick` nanoseconds before `now`.
    pub fn aim(&mut self, counter: u64, now: Time, into_tick: u64) {
        let ticks = self.value.wrapping_sub(counter) & self.mask();
        let tick_began = now.as_nanos().saturating_sub(into_tick);
        self.due = ticks.checked_mul(TICK).and_then(|nanos| tick_began.checked_add(nanos)).map(Time::from_nanos);
    }

    /// Passes the matches up to now; false when there was none. Several that were missed count as one.
    pub fn pass(&mut self, now: Time) -> bool {
        let Some(due) = self.due.filter(|due| *due <= now) else { return false };
        let period = match (self.has(config::PERIODIC), self.has(config::NARROW)) {
            (true, _) => self.period,
            // A one-shot comparator matches again when the counter has wrapped around.
            (false, true) => 1 << 32,
            (false, false) => 0,
        };
        let Some(step) = period.checked_mul(TICK).filter(|step| *step > 0) else {
            self.due = None;
            return true;
        };
        let passed = (now - due).as_nanos() as u64 / step + 1;
        if self.has(config::PERIODIC) {
            self.value = self.value.wrapping_add(passed.wrapping_mul(period)) & self.mask();
        }
        self.due = Some(due + Duration::from_nanos(passed.saturating_mul(step)));
        true
    }

    pub fn inspect(&self) -> serde_json::Value {
        json!({ "config": self.config, "value": self.value, "period": self.period,
                "due": self.due.map(Time::as_nanos) })
    }

    pub fn save(&self) -> SavedComparator {
        let due = self.due.map(Time::as_nanos);
        SavedComparator { config: self.config, value: self.value, period: self.period, due }
    }

    pub fn from_saved(saved: &SavedComparator) -> Comparator {
        Comparator {
            config: saved.config & config::WRITABLE,
            value: saved.value,
            period: saved.period,
            due: saved.due.map(Time::from_nanos),
        }
    }
}
