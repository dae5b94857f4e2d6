//! Fuzz target: a guest that uses the clock at random while time passes.

use crate::Rtc;
use bulkhead_device::fuzz::{Step, Steps};
use bulkhead_device::{Device, Line, PortIo};
use bulkhead_reactor::{Time, VirtualReactor};
use std::time::Duration;

/// Runs `data` as a guest.
pub fn fuzz(data: &[u8]) {
    let Ok((mut clock, reactor)) = VirtualReactor::new(Time::ZERO, 0) else { return };
    let rtc = Rtc::new("rtc", &reactor, Line::unconnected(), Duration::from_millis(1_700_000_000_123));
    for step in Steps::new(data) {
        match step {
            Step::PortRead(port, _) => drop(rtc.lock().port_read((port >> 15) as u8, port & 1, 1)),
            // Mostly the first 16 bytes.
            Step::PortWrite(port, _, value) if port & 0x101 == 0 => rtc.lock().port_write(0, 0, 1, value & 0xf),
            Step::PortWrite(port, _, value) => rtc.lock().port_write((port >> 15) as u8, port & 1, 1, value & 0xff),
            Step::Advance(nanos) => clock.advance_to(reactor.now() + Duration::from_nanos(nanos)),
            Step::Event(seconds) => rtc.lock().advance(Duration::from_millis(u64::from(seconds) << 10)),
            _ => {}
        }
    }
    let state = rtc.lock().save().expect("plain");
    let again = Rtc::restore("rtc", &reactor, Line::unconnected(), &state).expect("just saved");
    assert_eq!(again.lock().save().expect("plain"), state);
}
