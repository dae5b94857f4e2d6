//! Fuzz target: a guest that drives keyboard and mouse at random, while both are used.

use crate::{Buttons, Key, Pointer, SynthKeyboard, SynthMouse};
use bulkhead_device::Device;
use bulkhead_device::fuzz::{Step, Steps};
use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_vmbus_channel::ChannelDevice;
use bulkhead_vmbus_channel::test_support::GuestChannel;
use std::sync::Arc;

/// Runs `data` as a guest with both devices.
pub fn fuzz(data: &[u8]) {
    let Ok(memory) = GuestMemory::builder().anonymous(0, 1 << 20).build() else { return };
    let guests = [GuestChannel::new(&memory, 0x10000, 16), GuestChannel::new(&memory, 0x80000, 16)];
    let Ok((_clock, reactor)) = VirtualReactor::new(Time::ZERO, 1) else { return };
    let log = Arc::new(GuestLog::new(&reactor, "fuzz"));
    let mut keyboard = SynthKeyboard::new(&reactor);
    let mut mouse = SynthMouse::new(&reactor);
    let open = |restored| guests.each_ref().map(|guest| guest.open(0, &log, restored));
    let [one, other] = open(false);
    let _ = (keyboard.open(one), mouse.open(other));
    for step in Steps::new(data) {
        match step {
            Step::PortWrite(at, _, value) => {
                let words = [value & 7, 0x1_0000 | value >> 16 & 3, u32::from(at), 8, value];
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                guests[0].send(1, at & 1 != 0, &bytes[..usize::from(at) % 17]);
                keyboard.signalled(0);
            }
            Step::MmioWrite(at, _, value) => {
                let words = [1, 8, value as u32 & 7, 4, 0x2_0000 | at & 1];
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                guests[1].send(1, at & 1 != 0, &bytes[..20 - (at as usize >> 1) % 4]);
                mouse.signalled(0);
            }
            Step::Event(event) => {
                keyboard
                    .key([Key::Plain(event as u8), Key::Extended(event as u8), Key::Pause][event as usize % 3], true);
                let buttons = Buttons { left: event & 1 != 0, ..Buttons::default() };
                mouse.pointer(Pointer { x: event as u16, y: (event >> 8) as u16, wheel: event as i16, buttons });
            }
            Step::MmioRead(..) => while guests[0].receive_raw().is_some() || guests[1].receive_raw().is_some() {},
            Step::PortRead(..) => {
                let states = (keyboard.save().expect("plain"), mouse.save().expect("plain"));
                keyboard = SynthKeyboard::restore(&reactor, &states.0).expect("just saved");
                mouse = SynthMouse::restore(&reactor, &states.1).expect("just saved");
                let [one, other] = open(true);
                let _ = (keyboard.open(one), mouse.open(other));
                assert_eq!(states, (keyboard.save().expect("plain"), mouse.save().expect("plain")));
            }
            Step::Advance(_) => {}
        }
    }
}
