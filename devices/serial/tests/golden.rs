//! The saved form has not changed.

use bulkhead_device::{Device, Line};
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_saved_state::{SavedState, golden};
use bulkhead_serial::{SavedSerial, Serial};

#[test]
fn serial() {
    let (_clock, reactor) = VirtualReactor::new(Time::from_nanos(5_000_000), 0).unwrap();
    let saved = SavedSerial {
        received: b"in".to_vec(),
        transmit: b"out".to_vec(),
        ier: 7,
        fcr: 0x81,
        lcr: 3,
        mcr: 0x0b,
        errors: 2,
        msr: 0xbb,
        modem: 0xb0,
        scratch: 0x5a,
        divisor: 1,
        transmitter_pending: true,
        timed_out: true,
        timeout_at: Some(5_300_000),
    };
    let state = SavedState::encode("serial", 1, &saved).unwrap();
    golden::check("tests/golden/serial-1.state", state.body());
    let serial = Serial::restore("serial", &reactor, Line::unconnected(), &state).unwrap();
    assert_eq!(serial.lock().save().unwrap(), state);
}
