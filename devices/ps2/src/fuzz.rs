//! Fuzz target: a guest that uses the controller at random, while keys and the mouse are used.

use crate::{Buttons, Key, Movement, Ps2, SavedPs2};
use bulkhead_device::fuzz::{Step, Steps, damaged};
use bulkhead_device::{Device, Line, PortIo, PowerRequest, PowerSink};
use bulkhead_saved_state::SavedState;
use std::sync::Arc;

struct Nowhere;

impl PowerSink for Nowhere {
    fn request(&self, _request: PowerRequest) {}
}

/// Runs `data` as a guest; a saved and restored controller must then go on equally, and one restored from a damaged state must
/// stand the same guest.
pub fn fuzz(data: &[u8]) {
    let line = Line::unconnected;
    let mut ps2 = Ps2::new("ps2", line(), line(), Arc::new(Nowhere));
    run(&mut ps2, data);
    let state = ps2.save().expect("plain");
    let restore = |state: &SavedState| Ps2::restore("ps2", line(), line(), Arc::new(Nowhere), state);
    let mut again = restore(&state).expect("just saved");
    assert_eq!(again.save().expect("plain"), state);
    for _ in 0..100 {
        assert_eq!(ps2.port_read(0, 0, 1), again.port_read(0, 0, 1));
    }
    if let Some(Ok(mut ps2)) = damaged::<SavedPs2>(&state, data).map(|state| restore(&state)) {
        run(&mut ps2, data);
    }
}

fn run(ps2: &mut Ps2, data: &[u8]) {
    for step in Steps::new(data) {
        match step {
            Step::PortRead(port, _) => drop(ps2.port_read((port % 3) as u8, 0, 1)),
            Step::PortWrite(port, _, value) => ps2.port_write((port % 3) as u8, 0, 1, value & 0xff),
            Step::Event(event) if event & 0x8000 != 0 => {
                let movement = Movement { right: event as i32 & 0xff, down: -(event as i32 >> 4), wheel: 1 };
                ps2.mouse(movement, Buttons { left: event & 1 != 0, forward: event & 2 != 0, ..Buttons::default() });
            }
            Step::Event(event) => {
                let code = event as u8;
                let key = [Key::Plain(code), Key::Extended(code), Key::Pause][(event as usize >> 8) % 3];
                ps2.key(key, event & 0x4000 != 0);
            }
            _ => {}
        }
    }
}
