//! One counter of the 8254: its six modes as functions of the tick, and the byte protocol of its port.

use crate::saved_state::SavedCounter;
use serde_json::json;

/// "When triggered", as the tick from which a new count counts.
const AT_TRIGGER: u64 = u64::MAX;

/// A counter. Ticks are periods of the input clock since the start of VM time.
#[derive(Debug)]
pub(super) struct Counter {
    mode: u8,
    bcd: bool,
    access: u8,
    gate: bool,
    count: Option<u32>,
    start: Option<u64>,
    held: Option<u64>,
    next: Option<(u32, u64)>,
    low_byte: Option<u8>,
    read_high: bool,
    latch: Option<u16>,
    status: Option<u8>,
}

impl Default for Counter {
    fn default() -> Counter {
        Counter {
            mode: 3,
            bcd: false,
            access: 3,
            gate: true,
            count: None,
            start: None,
            held: None,
            next: None,
            low_byte: None,
            read_high: false,
            latch: None,
            status: None,
        }
    }
}

impl Counter {
    /// The control word.
    pub fn program(&mut self, word: u8) {
        let mode = word >> 1 & 7;
        *self = Counter {
            mode: if mode > 5 { mode - 4 } else { mode },
            bcd: word & 1 != 0,
            access: word >> 4 & 3,
            gate: self.gate,
            ..Counter::default()
        };
    }

    /// Takes over a new count whose time has come.
    pub fn settle(&mut self, tick: u64) {
        if let Some((count, at)) = self.next
            && at <= tick
        {
            (self.count, self.start, self.next) = (Some(count), Some(at), None);
        }
    }

    /// The modulus of the counter.
    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// Count and ticks counted so far, while there is a count that was begun.
    fn progress(&self, tick: u64) -> Option<(u64, u64)> {
        let (count, start) = (self.count?, self.start?);
        Some((u64::from(count), self.held.unwrap_or(tick.saturating_sub(start))))
    }

    /// Level of OUT.
    pub fn output(&self, tick: u64) -> bool {
        let progress = self.progress(tick);
        match (self.mode, progress) {
            (0, None) => false,
            (_, None) => true,
            (0 | 1, Some((count, done))) => done >= count,
            (2 | 3, _) if !self.gate => true,
            (2, Some((count, done))) => done % count != count - 1 || count == 1,
            (3, Some((count, done))) => done % count < count.div_ceil(2),
            (_, Some((count, done))) => done != count,
        }
    }

    /// The next tick after `tick` at which OUT rises.
    pub fn next_rise(&self, tick: u64) -> Option<u64> {
        let (count, start) = (u64::from(self.count?), self.start?);
        if self.held.is_some() {
            return None;
        }
        match self.mode {
            0 | 1 => start.checked_add(count).filter(|rise| *rise > tick),
            2 | 3 => {
                let periods = tick.saturating_sub(start) / count + 1;
                start.checked_add(periods.checked_mul(count)?)
            }
            _ => start.checked_add(count + 1).filter(|rise| *rise > tick),
        }
    }

    fn value(&self, tick: u64) -> u16 {
        let modulus = u64::from(self.modulus());
        let value = match (self.mode, self.progress(tick)) {
            (_, None) => u64::from(self.count.unwrap_or(0)),
            (2, Some((count, done))) => count - done % count,
            (3, Some((count, done))) => {
                let (phase, half) = (done % count, count.div_ceil(2));
                (count & !1).saturating_sub(2 * if phase < half { phase } else { phase - half })
            }
            (_, Some((count, done))) => count + modulus - done % modulus,
        };
        let value = (value % modulus) as u16;
        if self.bcd { to_bcd(value) } else { value }
    }

    /// The counter latch command.
    pub fn latch(&mut self, tick: u64) {
        self.settle(tick);
        if self.latch.is_none() {
            self.latch = Some(self.value(tick));
            // Whatever was read before, a latched count is read from its low byte on.
            self.read_high = false;
        }
    }

    /// The read-back command.
    pub fn read_back(&mut self, count: bool, status: bool, tick: u64) {
        if count {
            self.latch(tick);
        }
        if status && self.status.is_none() {
            self.settle(tick);
            let null = self.next.is_some() || self.start.is_none_or(|start| start > tick);
            let flags = u8::from(self.output(tick)) << 7 | u8::from(null) << 6;
            self.status = Some(flags | self.access << 4 | self.mode << 1 | u8::from(self.bcd));
        }
    }

    /// A read of the counter's port.
    pub fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        self.settle(tick);
        let value = self.latch.unwrap_or_else(|| self.value(tick));
        let high = match self.access {
            1 => false,
            2 => true,
            _ => self.read_high,
        };
        if self.access == 3 {
            self.read_high = !high;
        }
        if high || self.access == 1 {
            self.latch = None;
        }
        value.to_le_bytes()[usize::from(high)]
    }

    /// A write of the counter's port.
    pub fn write(&mut self, value: u8, tick: u64) {
        self.settle(tick);
        match (self.access, self.low_byte) {
            (1, _) => self.load(u16::from(value), tick),
            (2, _) => self.load(u16::from(value) << 8, tick),
            (_, Some(low)) => {
                self.low_byte = None;
                self.load(u16::from_le_bytes([low, value]), tick);
            }
            (_, None) => {
                self.low_byte = Some(value);
                if self.mode == 0 {
                    // The first byte stops the old count, so that it cannot end in between.
                    self.start = None;
                }
            }
        }
    }

    /// A whole count was written.
    fn load(&mut self, written: u16, tick: u64) {
        let number = if self.bcd { from_bcd(written) } else { u32::from(written) };
        let count = if number == 0 { self.modulus() } else { number };
        match (self.mode, self.start) {
            (0 | 4, _) => {
                self.count = Some(count);
                self.start = Some(tick.saturating_add(1));
                self.held = (!self.gate).then_some(0);
            }
            (1 | 5, None) => self.count = Some(count),
            (1 | 5, Some(_)) => self.next = Some((count, AT_TRIGGER)),
            // Running: the new count counts from the end of the period.
            (_, Some(_)) if self.held.is_none() => {
                self.next = self.next_rise(tick).map(|end| (count, end));
            }
            _ => {
                self.count = Some(count);
                self.start = Some(tick.saturating_add(1));
                self.held = (!self.gate).then_some(0);
            }
        }
    }

    /// The gate's level.
    pub fn set_gate(&mut self, gate: bool, tick: u64) {
        self.settle(tick);
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        match self.mode {
            0 | 4 if gate => {
                self.start = self.start.map(|_| tick.saturating_sub(self.held.unwrap_or(0)));
                self.held = None;
            }
            0 | 4 => self.held = self.progress(tick).map(|(_, done)| done),
            _ if gate => {
                if let Some((count, _)) = self.next.take() {
                    self.count = Some(count);
                }
                self.start = self.count.map(|_| tick.saturating_add(1));
                self.held = None;
            }
            2 | 3 => self.held = self.start.map(|_| 0),
            _ => {}
        }
    }

    pub fn inspect(&self, tick: u64) -> serde_json::Value {
        json!({ "mode": self.mode, "bcd": self.bcd, "count": self.count, "value": self.value(tick), "gate": self.gate,
                "output": self.output(tick) })
    }

    pub fn save(&self) -> SavedCounter {
        SavedCounter {
            mode: self.mode,
            bcd: self.bcd,
            access: self.access,
            gate: self.gate,
            count: self.count,
            start: self.start,
            held: self.held,
            next: self.next,
            low_byte: self.low_byte,
            read_high: self.read_high,
            latch: self.latch,
            status: self.status,
        }
    }

    pub fn from_saved(saved: &SavedCounter) -> Counter {
        let count = |count: u32| count.clamp(1, 0x1_0000);
        Counter {
            mode: saved.mode.min(5),
            bcd: saved.bcd,
            access: saved.access.clamp(1, 3),
            gate: saved.gate,
            count: saved.count.map(count),
            start: saved.start,
            held: saved.held,
            next: saved.next.map(|(new, at)| (count(new), at)),
            low_byte: saved.low_byte,
            read_high: saved.read_high,
            latch: saved.latch,
            status: saved.status,
        }
    }
}

fn to_bcd(value: u16) -> u16 {
    [1000, 100, 10, 1].iter().fold(0, |bcd, unit| bcd << 4 | (value / unit % 10))
}

fn from_bcd(value: u16) -> u32 {
    [12, 8, 4, 0].iter().fold(0, |number, shift| number * 10 + u32::from(value >> shift & 0xf)) % 10_000
}
