//! The 16550A: registers, FIFOs and the rules of its interrupts.

use crate::backend::{ModemInputs, SerialBackend};
use crate::regs::*;
use crate::saved_state::SavedSerial;
use bulkhead_device::{Device, Line, PortIo};
use bulkhead_reactor::{Reactor, Time, Timer};
use bulkhead_saved_state::{SavedState, SavedStateError};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

const KIND: &str = "serial";
const VERSION: u32 = 1;

/// A serial port. One bank of eight ports.
pub struct Serial {
    name: String,
    reactor: Reactor,
    irq: Line,
    backend: Option<Box<dyn SerialBackend>>,
    received: VecDeque<u8>,
    transmit: VecDeque<u8>,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    errors: u8,
    msr: u8,
    modem: u8,
    scratch: u8,
    divisor: u16,
    transmitter_pending: bool,
    timed_out: bool,
    /// The backend was told that there is no room.
    backend_waits: bool,
    timer: Timer,
}

impl Serial {
    /// A port after reset, connected to nothing: what the guest sends vanishes.
    pub fn new(name: &str, reactor: &Reactor, irq: Line) -> Arc<Mutex<Serial>> {
        let saved = SavedSerial { divisor: 12, ..SavedSerial::default() };
        Serial::build(name, reactor, irq, &saved)
    }

    /// The port that was saved, connected to nothing.
    ///
    /// # Errors
    /// When `state` is of another version or damaged.
    pub fn restore(
        name: &str,
        reactor: &Reactor,
        irq: Line,
        state: &SavedState,
    ) -> Result<Arc<Mutex<Serial>>, SavedStateError> {
        Ok(Serial::build(name, reactor, irq, &state.decode(VERSION..=VERSION)?))
    }

    fn build(name: &str, reactor: &Reactor, irq: Line, saved: &SavedSerial) -> Arc<Mutex<Serial>> {
        Arc::new_cyclic(|this: &Weak<Mutex<Serial>>| {
            let this = this.clone();
            let timer = reactor.timer(move |_| {
                if let Some(serial) = this.upgrade() {
                    serial.lock().time_out();
                }
            });
            if let Some(at) = saved.timeout_at {
                timer.set(Time::from_nanos(at));
            }
            let serial = Serial {
                name: name.into(),
                reactor: reactor.clone(),
                irq,
                backend: None,
                received: saved.received.iter().copied().take(FIFO).collect(),
                transmit: saved.transmit.iter().copied().take(FIFO).collect(),
                ier: saved.ier & 0xf,
                fcr: saved.fcr & 0xc9,
                lcr: saved.lcr,
                mcr: saved.mcr & 0x1f,
                errors: saved.errors & LSR_ERRORS,
                msr: saved.msr,
                modem: saved.modem & !MSR_DELTAS,
                scratch: saved.scratch,
                divisor: saved.divisor,
                transmitter_pending: saved.transmitter_pending,
                timed_out: saved.timed_out,
                backend_waits: false,
                timer,
            };
            serial.update();
            Mutex::new(serial)
        })
    }

    /// Connects the port. The previous backend comes back, so that it can be dropped outside the port's lock.
    pub fn attach(&mut self, backend: Box<dyn SerialBackend>) -> Option<Box<dyn SerialBackend>> {
        let previous = self.backend.replace(backend);
        self.drain();
        self.update();
        previous
    }

    /// How many bytes [`Serial::receive`] takes now. The backend hears when 0 has changed.
    pub fn room(&mut self) -> usize {
        let room = match self.looped() {
            true => 0,
            false => self.capacity() - self.received.len().min(self.capacity()),
        };
        self.backend_waits |= room == 0;
        room
    }

    /// Bytes from the other end; as many as there is room for are taken, and their number returned.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.received.extend(&bytes[..taken]);
        if taken > 0 {
            self.watch_receiver();
            self.update();
        }
        taken
    }

    /// The backend takes bytes again.
    pub fn resume_output(&mut self) {
        self.drain();
        self.update();
    }

    /// The modem's lines.
    pub fn set_modem(&mut self, inputs: ModemInputs) {
        let bit = |level: bool, bit: u8| if level { bit } else { 0 };
        self.modem = bit(inputs.clear_to_send, MSR_CTS)
            | bit(inputs.data_set_ready, MSR_DSR)
            | bit(inputs.ring, MSR_RING)
            | bit(inputs.carrier, MSR_CARRIER);
        self.modem_changed();
        self.update();
    }

    fn looped(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    fn fifo(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    fn capacity(&self) -> usize {
        if self.fifo() { FIFO } else { 1 }
    }

    /// Bytes from which on the receiver interrupts.
    fn trigger(&self) -> usize {
        match (self.fifo(), self.fcr >> 6) {
            (false, _) | (_, 0) => 1,
            (_, 1) => 4,
            (_, 2) => 8,
            _ => 14,
        }
    }

    fn line_status(&self) -> u8 {
        let mut status = self.errors;
        if !self.received.is_empty() {
            status |= LSR_DATA;
        }
        if self.transmit.is_empty() {
            status |= LSR_THR_EMPTY | LSR_EMPTY;
        }
        status
    }

    /// The pending interrupt with the highest priority.
    fn interrupt(&self) -> u8 {
        let enabled = |bit: u8| self.ier & bit != 0;
        if enabled(IER_LINE) && self.errors != 0 {
            IIR_LINE
        } else if enabled(IER_RECEIVED) && self.received.len() >= self.trigger() {
            IIR_RECEIVED
        } else if enabled(IER_RECEIVED) && self.timed_out {
            IIR_TIMEOUT
        } else if enabled(IER_TRANSMITTER) && self.transmitter_pending {
            IIR_TRANSMITTER
        } else if enabled(IER_MODEM) && self.msr & MSR_DELTAS != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    fn update(&self) {
        self.irq.set(self.interrupt() != IIR_NONE);
    }

    /// Gives the transmitter's bytes away.
    fn drain(&mut self) {
        if self.transmit.is_empty() {
            return;
        }
        if self.looped() {
            while let Some(byte) = self.transmit.pop_front() {
                if self.received.len() < self.capacity() {
                    self.received.push_back(byte);
                } else {
                    self.errors |= LSR_OVERRUN;
                }
            }
            self.watch_receiver();
        } else if let Some(backend) = &mut self.backend {
            let taken = backend.send(self.transmit.make_contiguous()).min(self.transmit.len());
            self.transmit.drain(..taken);
        } else {
            self.transmit.clear();
        }
        if self.transmit.is_empty() {
            self.transmitter_pending = true;
        }
    }

    /// Starts the time-out of four characters while fewer bytes than the trigger lie in the FIFO.
    fn watch_receiver(&mut self) {
        let waiting = self.fifo() && !self.received.is_empty() && self.received.len() < self.trigger();
        if waiting && self.ier & IER_RECEIVED != 0 {
            self.timer.set(self.reactor.now() + 4 * self.character_time());
        } else {
            self.timer.cancel();
        }
    }

    fn character_time(&self) -> Duration {
        let parity = self.lcr >> 3 & 1;
        let stop = 1 + (self.lcr >> 2 & 1);
        let bits = 1 + 5 + (self.lcr & 3) + parity + stop;
        // 115,200 baud with divisor 1.
        Duration::from_nanos(u64::from(bits) * u64::from(self.divisor.max(1)) * 1_000_000_000 / 115_200)
    }

    fn time_out(&mut self) {
        self.timed_out = self.fifo() && !self.received.is_empty();
        self.update();
    }

    fn modem_changed(&mut self) {
        let now = if self.looped() {
            let lines = [(MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RING), (MCR_OUT2, MSR_CARRIER)];
            lines.iter().filter(|(output, _)| self.mcr & output != 0).fold(0, |inputs, (_, input)| inputs | input)
        } else {
            self.modem
        };
        let before = self.msr & !MSR_DELTAS;
        // Every change counts, but of the ring indicator only its end.
        let changed = (before ^ now) & !(MSR_RING & now);
        self.msr = now | self.msr & MSR_DELTAS | changed >> 4;
    }

    fn read_data(&mut self) -> u8 {
        let byte = self.received.pop_front().unwrap_or(0);
        self.timed_out = false;
        self.watch_receiver();
        self.wake_backend();
        byte
    }

    /// Tells a backend that waits when there is room again.
    fn wake_backend(&mut self) {
        if self.backend_waits && !self.looped() && self.received.len() < self.capacity() {
            self.backend_waits = false;
            if let Some(backend) = &mut self.backend {
                backend.input_wanted();
            }
        }
    }

    fn write_data(&mut self, byte: u8) {
        self.transmitter_pending = false;
        self.update();
        if self.transmit.len() < self.capacity() {
            self.transmit.push_back(byte);
        }
        self.drain();
    }

    fn write_ier(&mut self, value: u8) {
        let changed = self.ier ^ value;
        self.ier = value & 0xf;
        if changed & IER_TRANSMITTER != 0 {
            // Enabling it while the transmitter is empty is a reason of its own; drivers start that way.
            self.transmitter_pending = value & IER_TRANSMITTER != 0 && self.transmit.is_empty();
        }
        if changed & IER_RECEIVED != 0 {
            self.watch_receiver();
        }
    }

    fn write_fcr(&mut self, value: u8) {
        let mut clear = value;
        if (self.fcr ^ value) & FCR_ENABLE != 0 {
            clear |= FCR_CLEAR_RECEIVER | FCR_CLEAR_TRANSMITTER;
        } else if value & FCR_ENABLE == 0 {
            return;
        }
        self.fcr = value & 0xc9;
        if clear & FCR_CLEAR_RECEIVER != 0 {
            self.received.clear();
            self.timed_out = false;
        }
        if clear & FCR_CLEAR_TRANSMITTER != 0 && !self.transmit.is_empty() {
            self.transmit.clear();
            self.transmitter_pending = true;
        }
        self.watch_receiver();
        self.wake_backend();
    }
}

impl Device for Serial {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let saved = SavedSerial {
            received: self.received.iter().copied().collect(),
            transmit: self.transmit.iter().copied().collect(),
            ier: self.ier,
            fcr: self.fcr,
            lcr: self.lcr,
            mcr: self.mcr,
            errors: self.errors,
            msr: self.msr,
            modem: self.modem,
            scratch: self.scratch,
            divisor: self.divisor,
            transmitter_pending: self.transmitter_pending,
            timed_out: self.timed_out,
            timeout_at: self.timer.deadline().map(Time::as_nanos),
        };
        SavedState::encode(KIND, VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        json!({ "received": self.received.len(), "transmit": self.transmit.len(), "ier": self.ier, "lcr": self.lcr,
                "mcr": self.mcr, "lsr": self.line_status(), "msr": self.msr, "divisor": self.divisor,
                "interrupt": self.interrupt(), "connected": self.backend.is_some() })
    }

    fn reset(&mut self) {
        (self.ier, self.fcr, self.lcr, self.mcr, self.errors) = (0, 0, 0, 0, 0);
        (self.scratch, self.divisor, self.transmitter_pending, self.timed_out) = (0, 12, false, false);
        self.received.clear();
        self.transmit.clear();
        self.msr = self.modem;
        self.watch_receiver();
        self.wake_backend();
        self.update();
    }
}

impl PortIo for Serial {
    fn port_read(&mut self, _bank: u8, offset: u16, _size: u8) -> u32 {
        let divisor = self.lcr & LCR_DLAB != 0;
        let [low, high] = self.divisor.to_le_bytes();
        let value = match offset & 7 {
            DATA if divisor => low,
            DATA => self.read_data(),
            IER if divisor => high,
            IER => self.ier,
            IIR_FCR => {
                let interrupt = self.interrupt();
                if interrupt == IIR_TRANSMITTER {
                    self.transmitter_pending = false;
                }
                interrupt | if self.fifo() { IIR_FIFO } else { 0 }
            }
            LCR => self.lcr,
            MCR => self.mcr,
            LSR => {
                let status = self.line_status();
                self.errors = 0;
                status
            }
            MSR => {
                let status = self.msr;
                self.msr &= !MSR_DELTAS;
                status
            }
            _ => self.scratch,
        };
        self.update();
        u32::from(value)
    }

    fn port_write(&mut self, _bank: u8, offset: u16, _size: u8, value: u32) {
        let value = value as u8;
        let divisor = self.lcr & LCR_DLAB != 0;
        match offset & 7 {
            DATA if divisor => self.divisor = self.divisor & 0xff00 | u16::from(value),
            DATA => self.write_data(value),
            IER if divisor => self.divisor = self.divisor & 0x00ff | u16::from(value) << 8,
            IER => self.write_ier(value),
            IIR_FCR => self.write_fcr(value),
            LCR => self.lcr = value,
            MCR => {
                self.mcr = value & 0x1f;
                self.modem_changed();
                self.drain();
                self.wake_backend();
            }
            SCRATCH => self.scratch = value,
            // LSR and MSR are for tests of the chip only.
            _ => {}
        }
        self.update();
    }
}
