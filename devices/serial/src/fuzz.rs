//! Fuzz target: a guest that uses the port at random, with a backend that takes and gives at random.

use crate::{ModemInputs, SavedSerial, Serial, SerialBackend};
use bulkhead_device::fuzz::{Step, Steps, damaged};
use bulkhead_device::{Device, Line, PortIo};
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_saved_state::SavedState;
use parking_lot::Mutex;
use std::time::Duration;

struct Reluctant(usize);

impl SerialBackend for Reluctant {
    fn send(&mut self, bytes: &[u8]) -> usize {
        self.0 = self.0.wrapping_mul(31).wrapping_add(7);
        bytes.len().min(self.0 >> 5 & 3)
    }
}

/// Runs `data` as a guest, then again with a port restored from a damaged state.
pub fn fuzz(data: &[u8]) {
    let Ok((mut clock, reactor)) = VirtualReactor::new(Time::ZERO, 0) else { return };
    let device = Serial::new("serial", &reactor, Line::unconnected());
    run(&device, &mut clock, data);
    let state = device.lock().save().expect("plain");
    let restore = |state: &SavedState| Serial::restore("serial", &reactor, Line::unconnected(), state);
    assert_eq!(restore(&state).expect("just saved").lock().save().expect("plain"), state);
    if let Some(Ok(device)) = damaged::<SavedSerial>(&state, data).map(|state| restore(&state)) {
        run(&device, &mut clock, data);
    }
}

fn run(serial: &Mutex<Serial>, clock: &mut VirtualReactor, data: &[u8]) {
    serial.lock().attach(Box::new(Reluctant(data.len())));
    for step in Steps::new(data) {
        match step {
            Step::PortRead(port, _) => drop(serial.lock().port_read(0, port & 7, 1)),
            Step::PortWrite(port, _, value) => serial.lock().port_write(0, port & 7, 1, value & 0xff),
            Step::Advance(nanos) => {
                let now = clock.handle().now();
                clock.advance_to(now + Duration::from_nanos(nanos));
            }
            Step::Event(event) if event & 0x8000 != 0 => serial.lock().resume_output(),
            Step::Event(event) if event & 0x4000 != 0 => {
                let [clear_to_send, data_set_ready, ring, carrier] = [1, 2, 4, 8].map(|bit| event & bit != 0);
                serial.lock().set_modem(ModemInputs { clear_to_send, data_set_ready, ring, carrier });
            }
            Step::Event(event) => drop(serial.lock().receive(&event.to_le_bytes()[..event as usize & 3])),
            _ => {}
        }
    }
}
