//! The saved form has not changed.

use bulkhead_device::{Device, Line, PowerRequest, PowerSink};
use bulkhead_ps2::{Ps2, SavedKeyboard, SavedMouse, SavedPs2};
use bulkhead_saved_state::{SavedState, golden};
use std::sync::Arc;

struct Nowhere;

impl PowerSink for Nowhere {
    fn request(&self, _request: PowerRequest) {}
}

#[test]
fn ps2() {
    let keyboard = SavedKeyboard {
        replies: vec![0xfa],
        keys: vec![0xe0, 0xf0, 0x75],
        command: Some(0xed),
        set: 2,
        scanning: true,
        leds: 2,
        last: 0x1c,
    };
    let mouse = SavedMouse {
        replies: vec![0xfa, 0x04],
        packets: vec![8, 1, 2, 3],
        command: Some(0xf3),
        reporting: true,
        remote: true,
        wrap: true,
        doubled: true,
        resolution: 3,
        rate: 80,
        rates: [200, 200, 80],
        id: 4,
        buttons: 0x11,
        reported_buttons: 1,
        moved: [-300, 5, 1],
        last: 8,
    };
    let saved = SavedPs2 {
        memory: (0..32).collect(),
        command: Some(0xd4),
        last_was_command: true,
        output: (0x1e, true, false),
        replies: vec![(0x55, false), (0xa5, true)],
        break_prefix: true,
        a20: true,
        tested: true,
        keyboard,
        mouse,
    };
    let state = SavedState::encode("ps2", 1, &saved).unwrap();
    golden::check("tests/golden/ps2-1.state", state.body());
    let ps2 = Ps2::restore("ps2", Line::unconnected(), Line::unconnected(), Arc::new(Nowhere), &state).unwrap();
    assert_eq!(ps2.save().unwrap(), state);
}
