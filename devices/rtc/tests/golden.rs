//! The saved form has not changed.

use bulkhead_device::{Device, Line};
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_rtc::{Rtc, SavedRtc};
use bulkhead_saved_state::{SavedState, golden};

#[test]
fn rtc() {
    let (_clock, reactor) = VirtualReactor::new(Time::from_nanos(5_000_000), 0).unwrap();
    let saved = SavedRtc {
        memory: (0..=255).collect(),
        index: 0x8c,
        high_index: 0x12,
        seconds: 1_795_552_460,
        epoch: -250_000_000,
        settled: 4_000_000,
    };
    let state = SavedState::encode("rtc", 1, &saved).unwrap();
    golden::check("tests/golden/rtc-1.state", state.body());
    let rtc = Rtc::restore("rtc", &reactor, Line::unconnected(), &state).unwrap();
    assert_eq!(rtc.lock().save().unwrap(), state);
}
