//! Fuzz targets: guests that use the timers at random while time passes.

use crate::{Hpet, HpetLines, Pit, SavedHpet, SavedPit};
use bulkhead_device::fuzz::{Step, Steps, damaged};
use bulkhead_device::{Device, Line, LineInput, Mmio, PortIo};
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_saved_state::SavedState;
use parking_lot::Mutex;
use std::time::Duration;

/// Longest time that one step lets pass: thousands of the fastest interrupts, and many wraps of 32 bits only as a sum.
const LONGEST: u64 = 200_000_000;

/// A guest of the PIT, then one of a PIT restored from a damaged state.
pub fn pit(data: &[u8]) {
    let Ok((mut clock, reactor)) = VirtualReactor::new(Time::ZERO, 0) else { return };
    let device = Pit::new("pit", &reactor, Line::unconnected());
    run_pit(&device, &mut clock, data);
    let state = device.lock().save().expect("plain");
    let restore = |state: &SavedState| Pit::restore("pit", &reactor, Line::unconnected(), state);
    assert_eq!(restore(&state).expect("just saved").lock().save().expect("plain"), state);
    if let Some(Ok(device)) = damaged::<SavedPit>(&state, data).map(|state| restore(&state)) {
        run_pit(&device, &mut clock, data);
    }
}

fn run_pit(pit: &Mutex<Pit>, clock: &mut VirtualReactor, data: &[u8]) {
    for step in Steps::new(data) {
        match step {
            Step::PortRead(port, _) => drop(pit.lock().port_read((port >> 15) as u8, port & 3, 1)),
            Step::PortWrite(port, _, value) => pit.lock().port_write((port >> 15) as u8, port & 3, 1, value & 0xff),
            Step::Advance(nanos) => advance(clock, nanos),
            _ => {}
        }
    }
}

/// A guest of the HPET, then one of an HPET restored from a damaged state.
pub fn hpet(data: &[u8]) {
    let Ok((mut clock, reactor)) = VirtualReactor::new(Time::ZERO, 0) else { return };
    let lines = || HpetLines {
        irq0: Line::unconnected(),
        irq8: Line::unconnected(),
        pins: std::array::from_fn(|_| Line::unconnected()),
    };
    let device = Hpet::new("hpet", &reactor, lines());
    run_hpet(&device, &mut clock, data);
    let state = device.lock().save().expect("plain");
    let restore = |state: &SavedState| Hpet::restore("hpet", &reactor, lines(), state);
    assert_eq!(restore(&state).expect("just saved").lock().save().expect("plain"), state);
    if let Some(Ok(device)) = damaged::<SavedHpet>(&state, data).map(|state| restore(&state)) {
        run_hpet(&device, &mut clock, data);
    }
}

fn run_hpet(hpet: &Mutex<Hpet>, clock: &mut VirtualReactor, data: &[u8]) {
    for step in Steps::new(data) {
        match step {
            Step::MmioRead(at, size) => drop(hpet.lock().mmio_read(0, place(at, size), size)),
            Step::MmioWrite(at, size, value) => hpet.lock().mmio_write(0, place(at, size), size, value),
            Step::Advance(nanos) => advance(clock, nanos),
            Step::Event(event) => hpet.lock().set_input(event & 3, event & 4 != 0),
            _ => {}
        }
    }
}

fn advance(clock: &mut VirtualReactor, nanos: u64) {
    let now = clock.handle().now();
    clock.advance_to(now + Duration::from_nanos(nanos.min(LONGEST)));
}

/// Mostly registers that exist.
fn place(at: u32, size: u8) -> u64 {
    let at = if at & 0x8000 == 0 { at & 0x17f } else { at & 0x3ff };
    u64::from(at & !(u32::from(size) - 1))
}
