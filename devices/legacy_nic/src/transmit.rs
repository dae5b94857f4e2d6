//! The transmit list: frames gathered from guest memory into the port, and setup frames (manual, 4.2.2 and 4.3.6).

use crate::adapter::LegacyNic;
use crate::descriptor::Descriptor;
use crate::filter::{Filter, SETUP_LEN};
use crate::regs::{BUS_MODE, MODE, STATUS, TRANSMIT_LIST, mode, status, tdes};
use bulkhead_guest_memory::AccessError;
use bulkhead_packets::FrameMeta;

/// Descriptors served in one go.
const BUDGET: usize = 256;
/// Longest frame, without its checksum: what the watchdog lets pass.
const LONGEST: usize = 2048;
/// Shorter frames are padded.
const SHORTEST: usize = 60;

/// What came of a descriptor.
enum Outcome {
    Done,
    /// The chip does not own it.
    Unavailable,
    /// The port has no room.
    Full,
}

impl LegacyNic {
    /// Sends what is ready. True if there may be more.
    pub(crate) fn transmit(&mut self) -> bool {
        let running = |nic: &LegacyNic| nic.state.registers[STATUS] & status::TRANSMITTER == status::TRANSMITTER_RUNS;
        let mut left = BUDGET;
        while running(self) && left > 0 {
            left -= 1;
            match self.transmit_one() {
                Ok(Outcome::Done) => {}
                Ok(Outcome::Unavailable) => {
                    self.raise(status::TRANSMIT_UNAVAILABLE);
                    self.set_process(status::TRANSMITTER, status::TRANSMITTER_SUSPENDED);
                }
                // The switch wakes us.
                Ok(Outcome::Full) => break,
                Err(_) => self.bus_error(),
            }
        }
        if let Some(port) = &mut self.port
            && port.ring.tx.publish().is_err()
        {
            self.port_failed();
        }
        left == 0
    }

    fn transmit_one(&mut self) -> Result<Outcome, AccessError> {
        let descriptor = Descriptor::read(&self.memory, self.state.transmit_at)?;
        if !descriptor.owned() {
            return Ok(Outcome::Unavailable);
        }
        let word_1 = descriptor.words[1];
        let status = if word_1 & tdes::SETUP != 0 {
            self.set_up(&descriptor)?;
            tdes::SETUP_DONE
        } else {
            if word_1 & tdes::LAST != 0 && !self.has_room() {
                return Ok(Outcome::Full);
            }
            self.gather(&descriptor)?;
            if word_1 & tdes::LAST != 0 && !self.send() { tdes::ERROR | tdes::UNDERFLOW } else { 0 }
        };
        descriptor.finish(&self.memory, status)?;
        let base = self.state.registers[TRANSMIT_LIST];
        self.state.transmit_at = descriptor.next(base, self.state.registers[BUS_MODE]);
        if word_1 & tdes::INTERRUPT != 0 && word_1 & (tdes::LAST | tdes::SETUP) != 0 {
            self.raise(status::TRANSMITTED);
        }
        Ok(Outcome::Done)
    }

    fn set_up(&mut self, descriptor: &Descriptor) -> Result<(), AccessError> {
        let mut frame = [0; SETUP_LEN];
        self.memory.read(descriptor.words[2].into(), &mut frame)?;
        self.state.filter = Filter::new(descriptor.words[1], frame);
        Ok(())
    }

    /// Whether the longest frame can be sent now. If not, the switch wakes us when it can.
    fn has_room(&mut self) -> bool {
        let Some(port) = &mut self.port else { return true };
        let tx = &mut port.ring.tx;
        let room = match tx.reserve(LONGEST + 4) {
            Ok(slot) => Ok(slot.is_some()),
            Err(error) => Err(error),
        };
        match room {
            Ok(true) => true,
            // If half of the ring is free, there is room after all.
            Ok(false) => match tx.wait_for_room() {
                Ok(waits) => !waits,
                Err(_) => {
                    self.port_failed();
                    true
                }
            },
            Err(_) => {
                self.port_failed();
                true
            }
        }
    }

    fn gather(&mut self, descriptor: &Descriptor) -> Result<(), AccessError> {
        if descriptor.words[1] & tdes::FIRST != 0 {
            self.state.partial = Some(Vec::new());
        }
        for (address, len) in descriptor.buffers() {
            let Some(frame) = &mut self.state.partial else { return Ok(()) };
            let at = frame.len();
            if at + len > LONGEST {
                self.state.partial = None;
                return Ok(());
            }
            frame.resize(at + len, 0);
            self.memory.read(address.into(), &mut frame[at..])?;
        }
        Ok(())
    }

    /// Sends the gathered frame. False if it cannot be one, or there is no cable.
    fn send(&mut self) -> bool {
        let frame = self.state.partial.replace(Vec::new());
        let Some(mut frame) = frame.filter(|frame| frame.len() >= bulkhead_packets::ETHERNET_HEADER) else {
            self.counters.not_sent += 1;
            return false;
        };
        frame.resize(frame.len().max(SHORTEST), 0);
        if self.state.registers[MODE] & mode::LOOPBACK != 0 {
            self.deliver(&frame);
            return true;
        }
        let sent = match &mut self.port {
            Some(port) => port.ring.tx.send(&FrameMeta::default(), &[&frame]),
            None => Ok(false),
        };
        if sent.is_err() {
            self.port_failed();
        }
        let sent = matches!(sent, Ok(true));
        *if sent { &mut self.counters.sent } else { &mut self.counters.not_sent } += 1;
        sent
    }
}
