//! The 8254: three counters. Counter 0 is the system timer, counter 2 the speaker, gated and read through port 61h.

mod counter;

use crate::SHORTEST_SLEEP;
use crate::saved_state::SavedPit;
use bulkhead_device::{Device, Line, PortIo};
use bulkhead_reactor::{Reactor, Time, Timer};
use bulkhead_saved_state::{SavedState, SavedStateError};
use counter::Counter;
use parking_lot::Mutex;
use serde_json::json;
use std::sync::{Arc, Weak};

const KIND: &str = "pit";
const VERSION: u32 = 1;
const HZ: u128 = 1_193_182;
const NANOS: u128 = 1_000_000_000;

/// The 8254 with port 61h. Banks: 0 = ports 40h–43h, 1 = port 61h.
pub struct Pit {
    name: String,
    reactor: Reactor,
    irq: Line,
    counters: [Counter; 3],
    /// The writable bits of port 61h: gate of counter 2, speaker, and two that enable NMI sources which do not exist.
    control: u8,
    /// The tick at which counter 0 next interrupts.
    next_edge: Option<u64>,
    /// The host sleeps until then, however short the guest's period is.
    rest_until: Time,
    timer: Timer,
}

impl Pit {
    /// Number of the bank at 40h.
    pub const COUNTERS: u8 = 0;
    /// Number of the bank at 61h.
    pub const CONTROL: u8 = 1;

    /// A timer after power-on; it counts nothing. `irq` is the output of counter 0.
    pub fn new(name: &str, reactor: &Reactor, irq: Line) -> Arc<Mutex<Pit>> {
        let saved = SavedPit { counters: Vec::new(), control: 0, next_edge: None, line: false };
        Pit::build(name, reactor, irq, &saved)
    }

    /// The timer that was saved.
    ///
    /// # Errors
    /// When `state` is of another version or damaged.
    pub fn restore(
        name: &str,
        reactor: &Reactor,
        irq: Line,
        state: &SavedState,
    ) -> Result<Arc<Mutex<Pit>>, SavedStateError> {
        Ok(Pit::build(name, reactor, irq, &state.decode(VERSION..=VERSION)?))
    }

    fn build(name: &str, reactor: &Reactor, irq: Line, saved: &SavedPit) -> Arc<Mutex<Pit>> {
        let mut counters = [Counter::default(), Counter::default(), Counter::default()];
        for (counter, saved) in counters.iter_mut().zip(&saved.counters) {
            *counter = Counter::from_saved(saved);
        }
        irq.set(saved.line);
        Arc::new_cyclic(|this: &Weak<Mutex<Pit>>| {
            let this = this.clone();
            let timer = reactor.timer(move |_| {
                if let Some(pit) = this.upgrade() {
                    pit.lock().update();
                }
            });
            let pit = Pit {
                name: name.into(),
                reactor: reactor.clone(),
                irq,
                counters,
                control: saved.control & 0xf,
                next_edge: saved.next_edge,
                rest_until: Time::ZERO,
                timer,
            };
            pit.arm();
            Mutex::new(pit)
        })
    }

    /// Whether port 61h lets counter 2 reach the speaker.
    pub fn speaker_on(&self) -> bool {
        self.control & 3 == 3
    }

    fn tick(&self) -> u64 {
        (u128::from(self.reactor.now().as_nanos()) * HZ / NANOS) as u64
    }

    /// Delivers what counter 0 did up to now and waits for what it does next.
    fn update(&mut self) {
        let tick = self.tick();
        if self.next_edge.is_some_and(|edge| edge <= tick) {
            self.irq.set(false);
            self.irq.set(true);
            self.rest_until = self.reactor.now() + SHORTEST_SLEEP;
        }
        self.counters[0].settle(tick);
        self.irq.set(self.counters[0].output(tick));
        self.next_edge = self.counters[0].next_rise(tick);
        self.arm();
    }

    fn arm(&self) {
        match self.next_edge {
            Some(edge) => {
                let nanos = (u128::from(edge) * NANOS).div_ceil(HZ);
                let at = Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
                self.timer.set(at.max(self.rest_until));
            }
            None => self.timer.cancel(),
        }
    }

    fn command(&mut self, value: u8, tick: u64) {
        let selected = value >> 6;
        if selected == 3 {
            for (index, counter) in self.counters.iter_mut().enumerate() {
                if value >> (index + 1) & 1 != 0 {
                    counter.read_back(value & 0x20 == 0, value & 0x10 == 0, tick);
                }
            }
        } else {
            let counter = &mut self.counters[usize::from(selected)];
            if value & 0x30 == 0 { counter.latch(tick) } else { counter.program(value) }
        }
    }

    fn read_control(&mut self, tick: u64) -> u8 {
        // The DRAM refresh request, a clock of 15.085 us that old software measures delays with.
        let refresh = (self.reactor.now().as_nanos() / 15_085 % 2) as u8;
        self.counters[2].settle(tick);
        self.control | refresh << 4 | u8::from(self.counters[2].output(tick)) << 5
    }
}

impl Device for Pit {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let saved = SavedPit {
            counters: self.counters.iter().map(Counter::save).collect(),
            control: self.control,
            next_edge: self.next_edge,
            line: self.irq.level(),
        };
        SavedState::encode(KIND, VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        let tick = self.tick();
        let counters: Vec<_> = self.counters.iter().map(|counter| counter.inspect(tick)).collect();
        json!({ "counters": counters, "speaker": self.speaker_on() })
    }

    fn reset(&mut self) {
        self.counters = [Counter::default(), Counter::default(), Counter::default()];
        self.control = 0;
        self.next_edge = None;
        self.update();
    }
}

impl PortIo for Pit {
    fn port_read(&mut self, bank: u8, offset: u16, _size: u8) -> u32 {
        let tick = self.tick();
        let value = match (bank, offset) {
            (Self::CONTROL, _) => self.read_control(tick),
            // The command register cannot be read.
            (_, 3..) => 0xff,
            _ => self.counters[usize::from(offset)].read(tick),
        };
        u32::from(value)
    }

    fn port_write(&mut self, bank: u8, offset: u16, _size: u8, value: u32) {
        let (value, tick) = (value as u8, self.tick());
        // Edges up to now belong to the old settings.
        self.update();
        match (bank, offset) {
            (Self::CONTROL, _) => {
                self.control = value & 0xf;
                self.counters[2].set_gate(value & 1 != 0, tick);
            }
            (_, 3..) => self.command(value, tick),
            _ => self.counters[usize::from(offset)].write(value, tick),
        }
        self.update();
    }
}
