//! The HPET: a 64-bit counter at 100 MHz and three comparators, each one-shot or periodic, edge or level.

mod comparator;

use crate::SHORTEST_SLEEP;
use crate::saved_state::SavedHpet;
use bulkhead_device::{Device, Line, LineInput, Mmio};
use bulkhead_reactor::{Reactor, Time, Timer};
use bulkhead_saved_state::{SavedState, SavedStateError};
use comparator::{Comparator, PINS, config};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::{Arc, Weak};

const KIND: &str = "hpet";
const VERSION: u32 = 1;
const COMPARATORS: usize = 3;
/// Nanoseconds per tick.
pub(crate) const TICK: u64 = 10;
/// 10 ns in femtoseconds; vendor 8086h; legacy routes; 64 bits; three comparators; revision 1.
const CAPABILITIES: u64 = (TICK * 1_000_000) << 32 | 0x8086_a000 | (COMPARATORS as u64 - 1) << 8 | 1;
const COUNTER: u64 = 0x0f0;
const ENABLE: u8 = 1;
const LEGACY: u8 = 2;

/// Where the HPET's interrupts go.
#[derive(Debug)]
pub struct HpetLines {
    /// Driver of IRQ 0: the PIT's line, or comparator 0 in legacy mode.
    pub irq0: Line,
    /// Driver of IRQ 8: the RTC's line, or comparator 1 in legacy mode.
    pub irq8: Line,
    /// Drivers of the I/O APIC pins 20 to 23, which any comparator can use.
    pub pins: [Line; 4],
}

/// The HPET. One bank of 1 KiB at FED0_0000h. Inputs: 0 = the PIT, 1 = the RTC.
pub struct Hpet {
    name: String,
    reactor: Reactor,
    lines: HpetLines,
    config: u8,
    status: u8,
    /// The counter at `anchor`; it stands there while disabled.
    base: u64,
    anchor: Time,
    comparators: [Comparator; COMPARATORS],
    timers: [Timer; COMPARATORS],
    /// The host sleeps until then, however short the guest's periods are.
    rest_until: [Time; COMPARATORS],
    legacy_inputs: [bool; 2],
}

impl Hpet {
    /// The input for the PIT's line.
    pub const PIT: u32 = 0;
    /// The input for the RTC's line.
    pub const RTC: u32 = 1;

    /// An HPET after reset: disabled.
    pub fn new(name: &str, reactor: &Reactor, lines: HpetLines) -> Arc<Mutex<Hpet>> {
        let saved = SavedHpet { config: 0, status: 0, base: 0, anchor: 0, comparators: Vec::new() };
        Hpet::build(name, reactor, lines, &saved)
    }

    /// The one that was saved.
    ///
    /// # Errors
    /// When `state` is of another version or damaged.
    pub fn restore(
        name: &str,
        reactor: &Reactor,
        lines: HpetLines,
        state: &SavedState,
    ) -> Result<Arc<Mutex<Hpet>>, SavedStateError> {
        Ok(Hpet::build(name, reactor, lines, &state.decode(VERSION..=VERSION)?))
    }

    fn build(name: &str, reactor: &Reactor, lines: HpetLines, saved: &SavedHpet) -> Arc<Mutex<Hpet>> {
        let mut comparators: [Comparator; COMPARATORS] = Default::default();
        for (comparator, saved) in comparators.iter_mut().zip(&saved.comparators) {
            *comparator = Comparator::from_saved(saved);
        }
        Arc::new_cyclic(|this: &Weak<Mutex<Hpet>>| {
            let timers = std::array::from_fn(|_| {
                let this = this.clone();
                reactor.timer(move |_| {
                    if let Some(hpet) = this.upgrade() {
                        hpet.lock().update();
                    }
                })
            });
            let hpet = Hpet {
                name: name.into(),
                reactor: reactor.clone(),
                lines,
                config: saved.config & 3,
                status: saved.status & 7,
                base: saved.base,
                anchor: Time::from_nanos(saved.anchor),
                comparators,
                timers,
                rest_until: [Time::ZERO; COMPARATORS],
                legacy_inputs: [false; 2],
            };
            hpet.drive_levels();
            hpet.arm();
            Mutex::new(hpet)
        })
    }

    fn enabled(&self) -> bool {
        self.config & ENABLE != 0
    }

    fn legacy(&self) -> bool {
        self.config & LEGACY != 0
    }

    fn counter(&self, now: Time) -> u64 {
        let passed = if self.enabled() { now.as_nanos().saturating_sub(self.anchor.as_nanos()) / TICK } else { 0 };
        self.base.wrapping_add(passed)
    }

    /// Delivers the matches up to now, sets level lines, and waits for the next match.
    fn update(&mut self) {
        self.settle();
        self.drive_levels();
        self.arm();
    }

    fn settle(&mut self) {
        if !self.enabled() {
            return;
        }
        let now = self.reactor.now();
        for index in 0..COMPARATORS {
            if !self.comparators[index].pass(now) || !self.comparators[index].has(config::INTERRUPT) {
                continue;
            }
            self.rest_until[index] = now + SHORTEST_SLEEP;
            if self.comparators[index].has(config::LEVEL) {
                self.status |= 1 << index;
            } else if let Some(line) = self.line_of(index) {
                line.pulse();
            }
        }
    }

    /// Computes anew when each comparator matches, after a change of the counter.
    fn aim(&mut self, now: Time) {
        let counter = self.counter(now);
        let second_half = now.as_nanos().saturating_sub(self.anchor.as_nanos()) % TICK;
        for comparator in &mut self.comparators {
            comparator.aim(counter, now, second_half);
        }
    }

    fn arm(&self) {
        for (index, timer) in self.timers.iter().enumerate() {
            let comparator = &self.comparators[index];
            // While a level interrupt is not answered, another one changes nothing.
            let pending = comparator.has(config::LEVEL) && self.status >> index & 1 != 0;
            match comparator.due {
                Some(due) if self.enabled() && comparator.has(config::INTERRUPT) && !pending => {
                    timer.set(due.max(self.rest_until[index]));
                }
                _ => timer.cancel(),
            }
        }
    }

    fn line_of(&self, index: usize) -> Option<&Line> {
        match (self.legacy(), index) {
            (true, 0) => Some(&self.lines.irq0),
            (true, 1) => Some(&self.lines.irq8),
            _ => self.lines.pins.get(self.comparators[index].pin()?),
        }
    }

    fn drive_levels(&self) {
        let asserted = |index: usize| {
            let comparator = &self.comparators[index];
            self.status >> index & 1 != 0 && comparator.has(config::LEVEL) && comparator.has(config::INTERRUPT)
        };
        for (index, line) in [&self.lines.irq0, &self.lines.irq8].into_iter().enumerate() {
            line.set(if self.legacy() { asserted(index) } else { self.legacy_inputs[index] });
        }
        let routed = if self.legacy() { 2 } else { 0 };
        for (pin, line) in self.lines.pins.iter().enumerate() {
            line.set((routed..COMPARATORS).any(|index| self.comparators[index].pin() == Some(pin) && asserted(index)));
        }
    }

    /// A register of 8 bytes.
    fn read_register(&mut self, register: u64) -> u64 {
        let now = self.reactor.now();
        match register {
            0x000 => CAPABILITIES,
            0x010 => u64::from(self.config),
            0x020 => u64::from(self.status),
            COUNTER => self.counter(now),
            0x100..0x160 => {
                let comparator = &self.comparators[(register as usize - 0x100) / 0x20];
                match register & 0x1f {
                    0x00 => comparator.read_config(),
                    0x08 => comparator.value,
                    // No message-signalled interrupts.
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    /// Writes the bits of `mask` of a register of 8 bytes.
    fn write_register(&mut self, register: u64, mask: u64, value: u64) {
        let now = self.reactor.now();
        match register {
            0x010 => self.write_config((u64::from(self.config) & !mask | value) as u8 & 3, now),
            0x020 => self.status &= !(value as u8),
            COUNTER => {
                self.base = self.counter(now) & !mask | value;
                self.anchor = now;
                self.aim(now);
            }
            0x100..0x160 => {
                let index = (register as usize - 0x100) / 0x20;
                let counter = self.counter(now);
                let second_half = now.as_nanos().saturating_sub(self.anchor.as_nanos()) % TICK;
                let comparator = &mut self.comparators[index];
                match register & 0x1f {
                    0x00 => comparator.write_config(mask, value),
                    0x08 => comparator.write_value(mask, value),
                    _ => return,
                }
                comparator.aim(counter, now, second_half);
                if !comparator.has(config::LEVEL) {
                    self.status &= !(1 << index);
                }
            }
            _ => {}
        }
    }

    fn write_config(&mut self, new: u8, now: Time) {
        self.base = self.counter(now);
        self.anchor = now;
        self.config = new;
        self.aim(now);
    }
}

impl LineInput for Hpet {
    fn set_input(&mut self, input: u32, level: bool) {
        let Some(place) = self.legacy_inputs.get_mut(input as usize) else { return };
        *place = level;
        if !self.legacy() {
            let line = if input == Self::PIT { &self.lines.irq0 } else { &self.lines.irq8 };
            line.set(level);
        }
    }
}

impl Device for Hpet {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let saved = SavedHpet {
            config: self.config,
            status: self.status,
            base: self.base,
            anchor: self.anchor.as_nanos(),
            comparators: self.comparators.iter().map(Comparator::save).collect(),
        };
        SavedState::encode(KIND, VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        let comparators: Vec<_> = self.comparators.iter().map(Comparator::inspect).collect();
        let counter = self.counter(self.reactor.now());
        json!({ "config": self.config, "status": self.status, "counter": counter, "comparators": comparators,
                "pins": PINS.start })
    }

    fn reset(&mut self) {
        (self.config, self.status, self.base) = (0, 0, 0);
        self.comparators = Default::default();
        self.update();
    }
}

impl Mmio for Hpet {
    fn mmio_read(&mut self, _bank: u8, offset: u64, _size: u8) -> u64 {
        // The counter as a clock is read all the time and depends on nothing else.
        if offset & !7 != COUNTER {
            self.update();
        }
        self.read_register(offset & !7) >> (8 * (offset & 7))
    }

    fn mmio_write(&mut self, _bank: u8, offset: u64, size: u8, value: u64) {
        // Matches up to now belong to the old settings.
        self.settle();
        let shift = 8 * (offset & 7);
        let mask = u64::MAX >> (64 - 8 * u64::from(size));
        self.write_register(offset & !7, mask << shift, (value & mask) << shift);
        self.update();
    }

    fn mmio_unit(&self, _bank: u8) -> u8 {
        8
    }
}
