//! Keyboard and mouse against a guest's side written from the layouts of the messages.

use bulkhead_device::{Device, QuiesceToken};
use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_input::{Buttons, Key, Leds, Pointer, SavedKeyboard, SavedMouse, SynthKeyboard, SynthMouse};
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use bulkhead_saved_state::{SavedState, golden};
use bulkhead_vmbus_channel::test_support::GuestChannel;
use bulkhead_vmbus_channel::{ChannelDevice, PacketKind};
use std::sync::Arc;

struct Vm {
    _clock: VirtualReactor,
    reactor: Reactor,
    guest: GuestChannel,
    log: Arc<GuestLog>,
}

fn vm(pages: u32) -> Vm {
    let (clock, reactor) = VirtualReactor::new(Time::ZERO, 1).unwrap();
    let memory = GuestMemory::builder().anonymous(0, 1 << 20).build().unwrap();
    let log = Arc::new(GuestLog::new(&reactor, "test"));
    Vm { _clock: clock, guest: GuestChannel::new(&memory, 0x10000, pages), reactor, log }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Payloads of everything that the device sent in-band.
fn sent(guest: &GuestChannel) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| guest.receive())
        .filter(|packet| packet.kind() == PacketKind::InBand)
        .map(|packet| packet.payload().to_vec())
        .collect()
}

fn keyboard_of(vm: &Vm) -> SynthKeyboard {
    let mut keyboard = SynthKeyboard::new(&vm.reactor);
    keyboard.open(vm.guest.open(0, &vm.log, false)).unwrap();
    assert!(!keyboard.key(Key::Plain(0x1e), true), "no driver yet");
    vm.guest.send(7, true, &words(&[1, 0x1_0000]));
    keyboard.signalled(0);
    let completion = vm.guest.receive().unwrap();
    assert_eq!((completion.kind(), completion.transaction()), (PacketKind::Completion, 7));
    assert_eq!(sent(&vm.guest), [words(&[2, 1])]);
    keyboard
}

#[test]
fn keys_go_down_and_up() {
    let vm = vm(4);
    let mut keyboard = keyboard_of(&vm);
    assert!(keyboard.key(Key::Plain(0x1e), true));
    assert!(keyboard.key(Key::Plain(0x1e), false));
    assert!(keyboard.key(Key::Extended(0x48), true));
    assert!(keyboard.key(Key::Pause, true));
    let event = |code: u32, flags: u32| words(&[3, code, flags, 0]);
    let pause = [event(0x1d, 8), event(0x45, 0), event(0x1d, 10), event(0x45, 2)];
    let expected: Vec<_> = [event(0x1e, 0), event(0x1e, 2), event(0x48, 4)].into_iter().chain(pause).collect();
    assert_eq!(sent(&vm.guest), expected);
    vm.guest.send(0, false, &words(&[4, 6]));
    keyboard.signalled(0);
    assert_eq!(keyboard.leds(), Leds { scroll: false, num: true, caps: true });
    keyboard.close(0, QuiesceToken::new(|| {}));
    assert!(!keyboard.key(Key::Plain(1), true));
}

#[test]
fn keys_wait_for_a_guest_that_does_not_read_and_are_refused_in_the_end() {
    let vm = vm(2);
    let mut keyboard = keyboard_of(&vm);
    let taken = (0..1000).take_while(|_| keyboard.key(Key::Plain(0x1e), true)).count();
    // 40 bytes each in a ring of 4096, and 64 in the buffer.
    assert_eq!(taken, 102 + 64);
    let state = keyboard.save().unwrap();
    let mut keyboard = SynthKeyboard::restore(&vm.reactor, &state).unwrap();
    keyboard.open(vm.guest.open(0, &vm.log, true)).unwrap();
    let mut got = sent(&vm.guest).len();
    keyboard.signalled(0);
    got += sent(&vm.guest).len();
    assert_eq!(got, taken);
}

#[test]
fn other_major_versions_are_refused() {
    let vm = vm(4);
    let mut keyboard = SynthKeyboard::new(&vm.reactor);
    keyboard.open(vm.guest.open(0, &vm.log, false)).unwrap();
    vm.guest.send(0, false, &words(&[1, 0x2_0000]));
    keyboard.signalled(0);
    assert_eq!(sent(&vm.guest), [words(&[2, 0])]);
    assert!(!keyboard.is_ready());
}

fn mouse_of(vm: &Vm) -> SynthMouse {
    let mut mouse = SynthMouse::new(&vm.reactor);
    mouse.open(vm.guest.open(0, &vm.log, false)).unwrap();
    vm.guest.send(0, true, &words(&[1, 12, 0, 4, 0x2_0000]));
    mouse.signalled(0);
    let replies = sent(&vm.guest);
    assert_eq!(replies[0][..21], [&words(&[1, 13, 1, 5, 0x2_0000])[..], &[1]].concat());
    let information = &replies[1];
    assert_eq!(information[..16], words(&[1, 8 + 108, 2, 108]));
    assert_eq!(information[16..26], [0x20, 0, 0, 0, 0x5e, 4, 0x21, 6, 1, 0]);
    // HID descriptor: length 9, type 21h, and the length of the report descriptor that follows.
    assert_eq!((information[48], information[49], information[55]), (9, 0x21, 67));
    assert_eq!((information[57], information[57 + 66]), (0x05, 0xc0));
    assert!(!mouse.pointer(Pointer::default()), "not acknowledged yet");
    vm.guest.send(0, false, &words(&[1, 9, 3, 1, 0]));
    mouse.signalled(0);
    mouse
}

#[test]
fn the_pointer_has_absolute_positions() {
    let vm = vm(4);
    let mut mouse = mouse_of(&vm);
    let buttons = Buttons { left: true, middle: true, ..Buttons::default() };
    assert!(mouse.pointer(Pointer { x: 0x1234, y: 0xffff, wheel: -1, buttons }));
    assert_eq!(sent(&vm.guest), [[&words(&[1, 15, 4, 7])[..], &[5, 0x34, 0x12, 0xff, 0x7f, 0xff, 0xff, 0]].concat()]);
}

#[test]
fn a_guest_that_does_not_read_gets_the_last_position_and_all_turns() {
    let vm = vm(2);
    let mut mouse = mouse_of(&vm);
    for x in 0..1000 {
        assert!(mouse.pointer(Pointer { x, wheel: 1, ..Pointer::default() }));
    }
    let state = mouse.save().unwrap();
    let mut mouse = SynthMouse::restore(&vm.reactor, &state).unwrap();
    mouse.open(vm.guest.open(0, &vm.log, true)).unwrap();
    let mut reports = sent(&vm.guest);
    mouse.signalled(0);
    reports.extend(sent(&vm.guest));
    let turns: i32 = reports.iter().map(|report| i32::from(i16::from_le_bytes([report[21], report[22]]))).sum();
    let last = reports.last().unwrap();
    assert_eq!((turns, u16::from_le_bytes([last[17], last[18]])), (1000, 999));
}

#[test]
fn the_saved_forms_have_not_changed() {
    let keyboard = SavedKeyboard { ready: true, leds: 5, unsent: vec![(0x1e, 0), (0x48, 6)], answer: Some(true) };
    let state = SavedState::encode("synthetic-keyboard", 1, &keyboard).unwrap();
    golden::check("tests/golden/synthetic-keyboard-1.state", state.body());
    let vm = vm(4);
    assert_eq!(SynthKeyboard::restore(&vm.reactor, &state).unwrap().save().unwrap(), state);
    let mouse = SavedMouse { phase: 3, at: (1, 32767), buttons: 0x11, wheel: -3, moved: true, asked: Some(0x2_0000) };
    let state = SavedState::encode("synthetic-mouse", 1, &mouse).unwrap();
    golden::check("tests/golden/synthetic-mouse-1.state", state.body());
    assert_eq!(SynthMouse::restore(&vm.reactor, &state).unwrap().save().unwrap(), state);
}
