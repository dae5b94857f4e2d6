//! Fuzz targets: guests that use the timers at random while time passes.

use crate::{Hpet, HpetLines, Pit};
use bulkhead_device::fuzz::{Step, Steps};
use bulkhead_device::{Device, Line, LineInput, Mmio, PortIo};
use bulkhead_reactor::{Time, VirtualReactor};
use std::time::Duration;

/// Longest time that one step lets pass: thousands of the fastest interrupts, and many wraps of 32 bits only as a sum.
const LONGEST: u64 = 200_000_000;

/// A guest of the PIT.
pub fn pit(data: &[u8]) {
    let Ok((mut clock, reactor)) = VirtualReactor::new(Time::ZERO, 0) else { return };
    let pit = Pit::new("pit", &reactor, Line::unconnected());
    for step in Steps::new(data) {
        match step {
            Step::PortRead(port, _) => drop(pit.lock().port_read((port >> 15) as u8, port & 3, 1)),
            Step::PortWrite(port, _, value) => pit.lock().port_write((port >> 15) as u8, port & 3, 1, value & 0xff),
            Step::Advance(nanos) => clock.advance_to(reactor.now() + Duration::from_nanos(nanos.min(LONGEST))),
            _ => {}
        }
    }
    let state = pit.lock().save().expect("plain");
    let again = Pit::restore("pit", &reactor, Line::unconnected(), &state).expect("just saved");
    assert_eq!(again.lock().save().expect("plain"), state);
}

/// A guest of the HPET.
pub fn hpet(data: &[u8]) {
    let Ok((mut clock, reactor)) = VirtualReactor::new(Time::ZERO, 0) else { return };
    let lines = || HpetLines {
        irq0: Line::unconnected(),
        irq8: Line::unconnected(),
        pins: std::array::from_fn(|_| Line::unconnected()),
    };
    let hpet = Hpet::new("hpet", &reactor, lines());
    for step in Steps::new(data) {
        match step {
            Step::MmioRead(at, size) => drop(hpet.lock().mmio_read(0, place(at, size), size)),
            Step::MmioWrite(at, size, value) => hpet.lock().mmio_write(0, place(at, size), size, value),
            Step::Advance(nanos) => clock.advance_to(reactor.now() + Duration::from_nanos(nanos.min(LONGEST))),
            Step::Event(event) => hpet.lock().set_input(event & 3, event & 4 != 0),
            _ => {}
        }
    }
    let state = hpet.lock().save().expect("plain");
    let again = Hpet::restore("hpet", &reactor, lines(), &state).expect("just saved");
    assert_eq!(again.lock().save().expect("plain"), state);
}

/// Mostly registers that exist.
fn place(at: u32, size: u8) -> u64 {
    let at = if at & 0x8000 == 0 { at & 0x17f } else { at & 0x3ff };
    u64::from(at & !(u32::from(size) - 1))
}
