//! Fuzz target: a guest that uses the clock at random while time passes.

use crate::{Rtc, SavedRtc};
use bulkhead_device::fuzz::{Step, Steps, damaged};
use bulkhead_device::{Device, Line, PortIo};
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_saved_state::SavedState;
use parking_lot::Mutex;
use std::time::Duration;

/// Runs `data` as a guest, then again with a clock restored from a damaged state.
pub fn fuzz(data: &[u8]) {
    let Ok((mut clock, reactor)) = VirtualReactor::new(Time::ZERO, 0) else { return };
    let device = Rtc::new("rtc", &reactor, Line::unconnected(), Duration::from_millis(1_700_000_000_123));
    run(&device, &mut clock, data);
    let state = device.lock().save().expect("plain");
    let restore = |state: &SavedState| Rtc::restore("rtc", &reactor, Line::unconnected(), state);
    assert_eq!(restore(&state).expect("just saved").lock().save().expect("plain"), state);
    if let Some(Ok(device)) = damaged::<SavedRtc>(&state, data).map(|state| restore(&state)) {
        run(&device, &mut clock, data);
    }
}

fn run(rtc: &Mutex<Rtc>, clock: &mut VirtualReactor, data: &[u8]) {
    for step in Steps::new(data) {
        match step {
            Step::PortRead(port, _) => drop(rtc.lock().port_read((port >> 15) as u8, port & 1, 1)),
            // Mostly the first 16 bytes.
            Step::PortWrite(port, _, value) if port & 0x101 == 0 => rtc.lock().port_write(0, 0, 1, value & 0xf),
            Step::PortWrite(port, _, value) => rtc.lock().port_write((port >> 15) as u8, port & 1, 1, value & 0xff),
            Step::Advance(nanos) => {
                let now = clock.handle().now();
                clock.advance_to(now + Duration::from_nanos(nanos));
            }
            Step::Event(seconds) => rtc.lock().advance(Duration::from_millis(u64::from(seconds) << 10)),
            _ => {}
        }
    }
}
