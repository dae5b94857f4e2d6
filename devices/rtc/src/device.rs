//! The clock: time as an offset to VM time, flags computed when somebody looks, and the interrupt.

use crate::calendar::{self, Format};
use crate::regs::*;
use crate::saved_state::SavedRtc;
use bulkhead_device::{Device, Line, PortIo};
use bulkhead_reactor::{Reactor, Time, Timer};
use bulkhead_saved_state::{SavedState, SavedStateError};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::{Arc, Weak};
use std::time::Duration;

const KIND: &str = "rtc";
const VERSION: u32 = 1;
const SECOND: i64 = 1_000_000_000;
/// More than the registers can hold: year 25755 in binary mode.
const LAST_SECOND: i64 = 1 << 41;
/// How long before an update the clock says so.
const UPDATE_NOTICE: i64 = 244_000;

/// The clock. Banks: 0 = ports 70h–71h, 1 = ports 72h–73h.
pub struct Rtc {
    name: String,
    reactor: Reactor,
    irq: Line,
    memory: [u8; 256],
    index: u8,
    high_index: u8,
    seconds: i64,
    epoch: i64,
    settled: i64,
    timer: Timer,
}

impl Rtc {
    /// Number of the bank at 70h.
    pub const LOW: u8 = 0;
    /// Number of the bank at 72h.
    pub const HIGH: u8 = 1;

    /// A clock with a new battery that shows `wall` (time since 1970, in whatever time zone the guest expects) now, in BCD
    /// and 24-hour mode, with all other memory zero.
    pub fn new(name: &str, reactor: &Reactor, irq: Line, wall: Duration) -> Arc<Mutex<Rtc>> {
        let mut memory = [0; 256];
        (memory[A], memory[B], memory[D]) = (0x26, B_24_HOURS, D_VALID);
        let now = nanos(reactor.now());
        let saved = SavedRtc {
            memory: memory.to_vec(),
            index: 0,
            high_index: 0,
            seconds: i64::try_from(wall.as_secs()).unwrap_or(0),
            epoch: now - i64::from(wall.subsec_nanos()),
            settled: now,
        };
        Rtc::build(name, reactor, irq, &saved)
    }

    /// The clock that was saved; it goes on with VM time. See [`Rtc::advance`] for the time in between.
    ///
    /// # Errors
    /// When `state` is of another version or damaged.
    pub fn restore(
        name: &str,
        reactor: &Reactor,
        irq: Line,
        state: &SavedState,
    ) -> Result<Arc<Mutex<Rtc>>, SavedStateError> {
        Ok(Rtc::build(name, reactor, irq, &state.decode(VERSION..=VERSION)?))
    }

    fn build(name: &str, reactor: &Reactor, irq: Line, saved: &SavedRtc) -> Arc<Mutex<Rtc>> {
        let mut memory = [0; 256];
        memory.iter_mut().zip(&saved.memory).for_each(|(byte, saved)| *byte = *saved);
        // Whatever a file says: times stay where sums of them cannot overflow.
        const FAR: i64 = i64::MAX / 4;
        Arc::new_cyclic(|this: &Weak<Mutex<Rtc>>| {
            let this = this.clone();
            let timer = reactor.timer(move |_| {
                if let Some(rtc) = this.upgrade() {
                    rtc.lock().update();
                }
            });
            let rtc = Rtc {
                name: name.into(),
                reactor: reactor.clone(),
                irq,
                memory,
                index: saved.index,
                high_index: saved.high_index & 0x7f,
                seconds: saved.seconds.clamp(-LAST_SECOND, LAST_SECOND),
                epoch: saved.epoch.clamp(-FAR, FAR),
                settled: saved.settled.clamp(-FAR, FAR),
                timer,
            };
            rtc.irq.set(rtc.pending());
            rtc.arm();
            Mutex::new(rtc)
        })
    }

    /// A byte of the memory, without side effects.
    pub fn memory(&self, index: u8) -> u8 {
        self.memory[usize::from(index)]
    }

    /// Sets a byte of the memory as the board's maker or firmware would. The clock's own registers are left alone.
    pub fn set_memory(&mut self, index: u8, value: u8) {
        let index = usize::from(index);
        if index > D && index != CENTURY {
            self.memory[index] = value;
        }
    }

    /// Moves the clock forward: by the time that passed outside while VM time stood still.
    pub fn advance(&mut self, by: Duration) {
        self.update();
        let whole = i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
        self.seconds = self.seconds.saturating_add(whole).min(LAST_SECOND);
        self.epoch -= i64::from(by.subsec_nanos());
        self.arm();
    }

    /// What the clock shows, in seconds since 1970.
    pub fn seconds(&self) -> i64 {
        match self.running() {
            true => self.seconds_at(nanos(self.reactor.now())),
            false => calendar::load(&self.memory, self.format()),
        }
    }

    fn format(&self) -> Format {
        Format::of(self.memory[B])
    }

    /// The divider counts (and with it the periodic interrupt), unless software holds it in reset.
    fn divider_runs(&self) -> bool {
        self.memory[A] & 0x60 != 0x60
    }

    /// The time goes on.
    fn running(&self) -> bool {
        self.divider_runs() && self.memory[B] & B_SET == 0
    }

    fn seconds_at(&self, now: i64) -> i64 {
        self.seconds + (now - self.epoch).div_euclid(SECOND)
    }

    /// The period of the periodic interrupt in units of 1/32768 s.
    fn period(&self) -> Option<i64> {
        match self.memory[A] & 0xf {
            0 => None,
            rate @ (1 | 2) => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    /// Number of the period that contains `now`.
    fn periods_at(&self, now: i64, period: i64) -> i64 {
        let ticks = i128::from(now - self.epoch) * 32_768 / i128::from(SECOND);
        (ticks as i64).div_euclid(period)
    }

    fn pending(&self) -> bool {
        self.memory[C] & self.memory[B] & FLAGS != 0
    }

    /// Sets the flags of what happened up to now.
    fn settle(&mut self) {
        let now = nanos(self.reactor.now());
        let before = self.settled;
        self.settled = now.max(before);
        if now <= before || !self.divider_runs() {
            return;
        }
        if self.period().is_some_and(|period| self.periods_at(now, period) != self.periods_at(before, period)) {
            self.memory[C] |= B_PERIODIC;
        }
        if !self.running() {
            return;
        }
        let (was, is) = (self.seconds_at(before), self.seconds_at(now));
        if was != is {
            self.memory[C] |= B_UPDATE;
            if calendar::next_alarm(&self.memory, was, self.format()).is_some_and(|alarm| alarm <= is) {
                self.memory[C] |= B_ALARM;
            }
        }
    }

    fn update(&mut self) {
        self.settle();
        self.irq.set(self.pending());
        self.arm();
    }

    /// Wakes the host for the next enabled interrupt, unless one is waiting to be read.
    fn arm(&self) {
        let enabled = self.memory[B];
        let mut next: Option<i64> = None;
        let mut wait_for = |at: i64| next = Some(next.map_or(at, |next| next.min(at)));
        if !self.pending() && self.divider_runs() {
            if let Some(period) = self.period().filter(|_| enabled & B_PERIODIC != 0) {
                let ticks = i128::from(self.periods_at(self.settled, period) + 1) * i128::from(period);
                let since_epoch = (ticks * i128::from(SECOND) + 32_767).div_euclid(32_768);
                wait_for(self.epoch + since_epoch as i64);
            }
            let second = self.seconds_at(self.settled);
            if enabled & B_UPDATE != 0 && self.running() {
                wait_for(self.epoch + (second + 1 - self.seconds) * SECOND);
            }
            if enabled & B_ALARM != 0
                && self.running()
                && let Some(alarm) = calendar::next_alarm(&self.memory, second, self.format())
            {
                wait_for(self.epoch + (alarm - self.seconds) * SECOND);
            }
        }
        match next {
            Some(at) => self.timer.set(Time::from_nanos(at.max(0).cast_unsigned())),
            None => self.timer.cancel(),
        }
    }

    fn read(&mut self, index: usize) -> u8 {
        let now = nanos(self.reactor.now());
        match index {
            SECONDS | MINUTES | HOURS | DAY_OF_WEEK..=YEAR | CENTURY if self.running() => {
                let (seconds, format) = (self.seconds_at(now), self.format());
                calendar::store(&mut self.memory, seconds, format);
                self.memory[index]
            }
            A => {
                let phase = (now - self.epoch).rem_euclid(SECOND);
                let updating = self.running() && phase >= SECOND - UPDATE_NOTICE;
                self.memory[A] | if updating { A_UPDATING } else { 0 }
            }
            C => {
                self.settle();
                let any = if self.pending() { C_ANY } else { 0 };
                let flags = std::mem::take(&mut self.memory[C]);
                self.update();
                flags | any
            }
            _ => self.memory[index],
        }
    }

    fn write(&mut self, index: usize, value: u8) {
        // Flags up to now belong to the old settings.
        self.update();
        let now = nanos(self.reactor.now());
        let ran = self.running();
        if ran {
            let (seconds, format) = (self.seconds_at(now), self.format());
            calendar::store(&mut self.memory, seconds, format);
        }
        let mut set_time = false;
        match index {
            A => {
                let divider_ran = self.divider_runs();
                self.memory[A] = value & !A_UPDATING;
                if !divider_ran && self.divider_runs() {
                    // The first update comes half a second after the divider starts.
                    self.epoch = now - SECOND / 2;
                }
            }
            // Setting the time and being told of updates exclude each other.
            B if value & B_SET != 0 => self.memory[B] = value & !B_UPDATE,
            B => self.memory[B] = value,
            C | D => {}
            _ => {
                self.memory[index] = value;
                set_time = matches!(index, SECONDS | MINUTES | HOURS | DAY..=YEAR | CENTURY);
            }
        }
        if self.running() && (!ran || set_time) {
            self.seconds = calendar::load(&self.memory, self.format());
            self.epoch = now - (now - self.epoch).rem_euclid(SECOND);
        }
    }
}

fn nanos(time: Time) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

impl Device for Rtc {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let saved = SavedRtc {
            memory: self.memory.to_vec(),
            index: self.index,
            high_index: self.high_index,
            seconds: self.seconds,
            epoch: self.epoch,
            settled: self.settled,
        };
        SavedState::encode(KIND, VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        let seconds = self.seconds();
        let (year, month, day) = calendar::date(seconds.div_euclid(86_400));
        let of_day = seconds.rem_euclid(86_400);
        let clock = format!("{:02}:{:02}:{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60);
        json!({ "time": format!("{year:04}-{month:02}-{day:02} {clock}"), "running": self.running(),
                "a": self.memory[A], "b": self.memory[B], "c": self.memory[C] })
    }

    /// The reset pin: interrupts off. Time and memory stay.
    fn reset(&mut self) {
        self.settle();
        self.memory[B] &= !(FLAGS | B_SQUARE_WAVE);
        self.memory[C] = 0;
        (self.index, self.high_index) = (0, 0);
        self.update();
    }
}

impl PortIo for Rtc {
    fn port_read(&mut self, bank: u8, offset: u16, _size: u8) -> u32 {
        let value = match (bank, offset) {
            // The index registers cannot be read.
            (_, 0) => return 0xff,
            (Self::HIGH, _) => self.memory[0x80 | usize::from(self.high_index)],
            _ => self.read(usize::from(self.index & 0x7f)),
        };
        u32::from(value)
    }

    fn port_write(&mut self, bank: u8, offset: u16, _size: u8, value: u32) {
        let value = value as u8;
        match (bank, offset) {
            (Self::HIGH, 0) => self.high_index = value & 0x7f,
            (Self::HIGH, _) => self.memory[0x80 | usize::from(self.high_index)] = value,
            (_, 0) => self.index = value,
            _ => {
                self.write(usize::from(self.index & 0x7f), value);
                self.update();
            }
        }
    }
}
