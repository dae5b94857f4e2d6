//! The receive list: frames from the port into guest memory (manual, 4.2.1 and 4.3.5).

use crate::adapter::LegacyNic;
use crate::descriptor::Descriptor;
use crate::regs::{BUS_MODE, MODE, RECEIVE_LIST, STATUS, mode, rdes, status};
use bulkhead_guest_memory::AccessError;
use bulkhead_port::RingError;
use std::time::Duration;

/// Frames received in one go.
const BUDGET: usize = 256;
/// Longest frame without its checksum, with a VLAN tag.
const LONGEST: usize = 1518;
const SHORTEST: usize = 60;
/// Most descriptors of a frame.
const MOST_DESCRIPTORS: usize = 64;
/// How soon a frame that found no descriptor is tried again, if the driver does not ask before.
const RETRY: Duration = Duration::from_millis(2);

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// In guest memory, or not wanted.
    Done,
    /// The driver has given no descriptor: later.
    NoBuffer,
}

impl LegacyNic {
    /// Receives what waits in the port. True if there may be more.
    pub(crate) fn receive(&mut self) -> bool {
        let Some(mut port) = self.port.take() else { return false };
        let mut frame = Vec::new();
        let result = (|| -> Result<bool, RingError> {
            for _ in 0..BUDGET {
                let Some(waiting) = port.ring.rx.peek()? else {
                    if port.ring.rx.sleep()? {
                        return Ok(false);
                    }
                    continue;
                };
                if waiting.len() > LONGEST || self.state.registers[MODE] & mode::LOOPBACK != 0 {
                    self.counters.dropped += 1;
                } else {
                    waiting.read_all(&mut frame)?;
                    if let Some(tag) = waiting.meta().vlan {
                        frame.splice(12..12, [0x81, 0x00, (tag.0 >> 8) as u8, tag.0 as u8]);
                    }
                    if self.deliver(&frame) == Delivery::NoBuffer {
                        port.ring.rx.release()?;
                        self.retry.set(self.now() + RETRY);
                        return Ok(false);
                    }
                }
                port.ring.rx.advance();
                port.ring.rx.release_some()?;
            }
            port.ring.rx.release()?;
            Ok(true)
        })();
        // A broken ring is a cable that is out.
        let Ok(more) = result else { return false };
        self.port = Some(port);
        more
    }

    /// Puts a frame into guest memory, if it is wanted.
    pub(crate) fn deliver(&mut self, frame: &[u8]) -> Delivery {
        let csr6 = self.state.registers[MODE];
        if self.state.registers[STATUS] & status::RECEIVER == 0 {
            self.counters.dropped += 1;
            return Delivery::Done;
        }
        if !frame.first_chunk().is_some_and(|to| self.state.filter.takes(csr6, *to)) {
            self.counters.filtered += 1;
            return Delivery::Done;
        }
        let delivered = self.scatter(frame).unwrap_or_else(|_| {
            self.bus_error();
            Delivery::Done
        });
        let state = match delivered {
            Delivery::Done => status::RECEIVER_WAITS,
            Delivery::NoBuffer => {
                self.raise(status::RECEIVE_UNAVAILABLE);
                status::RECEIVER_SUSPENDED
            }
        };
        if self.state.registers[STATUS] & status::RECEIVER != 0 {
            self.set_process(status::RECEIVER, state);
        }
        delivered
    }

    fn scatter(&mut self, frame: &[u8]) -> Result<Delivery, AccessError> {
        let mut frame = frame.to_vec();
        frame.resize(frame.len().max(SHORTEST), 0);
        let checksum = crc32fast::hash(&frame);
        frame.extend(checksum.to_le_bytes());
        let Some(descriptors) = self.descriptors_for(frame.len())? else { return Ok(Delivery::NoBuffer) };
        if descriptors.is_empty() {
            // So many descriptors with so little room that no frame fits.
            self.counters.dropped += 1;
            return Ok(Delivery::Done);
        }
        let mut rest = frame.as_slice();
        for (index, descriptor) in descriptors.iter().enumerate() {
            for (address, len) in descriptor.buffers() {
                let (now, later) = rest.split_at(len.min(rest.len()));
                self.memory.write(address.into(), now)?;
                rest = later;
            }
            let mut word_0 = 0;
            if index == 0 {
                word_0 |= rdes::FIRST;
            }
            if index + 1 == descriptors.len() {
                word_0 |= last_status(&frame);
            }
            descriptor.finish(&self.memory, word_0)?;
        }
        if let Some(last) = descriptors.last() {
            self.state.receive_at = last.next(self.state.registers[RECEIVE_LIST], self.state.registers[BUS_MODE]);
        }
        self.counters.received += 1;
        self.raise(status::RECEIVED);
        Ok(Delivery::Done)
    }

    /// Descriptors with room for `len` bytes; `None` when the driver has not given enough of them, and an empty list when no
    /// number would be enough.
    fn descriptors_for(&self, len: usize) -> Result<Option<Vec<Descriptor>>, AccessError> {
        let (base, bus_mode) = (self.state.registers[RECEIVE_LIST], self.state.registers[BUS_MODE]);
        let mut found: Vec<Descriptor> = Vec::new();
        let (mut at, mut room) = (self.state.receive_at, 0);
        while room < len {
            if found.len() == MOST_DESCRIPTORS {
                return Ok(Some(Vec::new()));
            }
            let descriptor = Descriptor::read(&self.memory, at)?;
            // A list that is shorter than the frame: its first descriptor will not be free before the frame is in.
            if !descriptor.owned() || found.iter().any(|other| other.at == at) {
                return Ok(None);
            }
            room += descriptor.buffers().map(|(_, len)| len).sum::<usize>();
            at = descriptor.next(base, bus_mode);
            found.push(descriptor);
        }
        Ok(Some(found))
    }
}

/// Word 0 of the last descriptor of a frame, whose checksum is part of it.
fn last_status(frame: &[u8]) -> u32 {
    let mut word_0 = rdes::LAST | (frame.len() as u32 & 0x3fff) << 16;
    if frame[0] & 1 != 0 {
        word_0 |= rdes::MULTICAST;
    }
    if u16::from_be_bytes([frame[12], frame[13]]) > 1500 {
        word_0 |= rdes::ETHERNET;
    }
    if frame.len() > 1518 {
        word_0 |= rdes::TOO_LONG;
    }
    word_0
}
