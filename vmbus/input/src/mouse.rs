//! The synthetic mouse: a HID device with absolute positions, five buttons and a wheel.
//!
//! ```text
//! every packet {u32 1, u32 size} {u32 type, u32 size} body
//! guest 0 {u32 version}     host 1 {u32 version, u8 approved}     host 2 device information     guest 3 acknowledged
//! host  4 report: u8 buttons, u16 horizontal, u16 vertical (0 to 32767), i16 wheel
//! ```

use crate::saved_state::{SavedMouse, VERSION};
use bulkhead_device::{Device, QuiesceToken};
use bulkhead_guest_log::{GuestLog, guest_debug};
use bulkhead_reactor::Reactor;
use bulkhead_saved_state::{SavedState, SavedStateError};
use bulkhead_vmbus_channel::{Channel, ChannelDevice, Offer, OpenRefused, Outgoing, Packet, class};
use serde_json::json;

const KIND: &str = "synthetic-mouse";
const PIPE_DATA: u32 = 1;
const REQUEST: u32 = 0;
const RESPONSE: u32 = 1;
const DEVICE_INFORMATION: u32 = 2;
const INFORMATION_ACK: u32 = 3;
const REPORT: u32 = 4;
const MAJOR: u32 = 2;

/// Positions go from 0 to this less one, on each axis.
pub const POSITIONS: u16 = 0x8000;

/// Size (32), vendor, product, version, 22 reserved bytes.
const IDENTITY: [u8; 10] = [0x20, 0, 0, 0, 0x5e, 0x04, 0x21, 0x06, 1, 0];
/// HID 1.11, 6.2.1: one report descriptor of 67 bytes.
const HID_DESCRIPTOR: [u8; 9] = [0x09, 0x21, 0x01, 0x01, 0x00, 0x01, 0x22, 0x43, 0x00];
/// HID 1.11, 6.2.2: a mouse with 5 buttons, absolute X and Y of 15 bits, and a relative wheel of 16 bits.
const REPORT_DESCRIPTOR: [u8; 67] = [
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00, 0x05, 0x09, 0x19, 0x01, 0x29, 0x05, 0x15, 0x00, 0x25,
    0x01, 0x95, 0x05, 0x75, 0x01, 0x81, 0x02, 0x95, 0x01, 0x75, 0x03, 0x81, 0x01, 0x05, 0x01, 0x09, 0x30, 0x09, 0x31,
    0x15, 0x00, 0x26, 0xff, 0x7f, 0x75, 0x10, 0x95, 0x02, 0x81, 0x02, 0x05, 0x01, 0x09, 0x38, 0x16, 0x01, 0x80, 0x26,
    0xff, 0x7f, 0x75, 0x10, 0x95, 0x01, 0x81, 0x06, 0xc0, 0xc0,
];

/// Which buttons are down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Buttons {
    /// The first one.
    pub left: bool,
    /// The second one.
    pub right: bool,
    /// The wheel pressed.
    pub middle: bool,
    /// The first one at the side.
    pub back: bool,
    /// The second one at the side.
    pub forward: bool,
}

/// Where the pointer is, and what else the hand does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pointer {
    /// From left, below [`POSITIONS`].
    pub x: u16,
    /// From the top, below [`POSITIONS`].
    pub y: u16,
    /// Turns of the wheel since the last one; positive is away from the user.
    pub wheel: i16,
    /// Which buttons are down.
    pub buttons: Buttons,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Phase {
    /// The driver has not introduced itself.
    Silent,
    /// Its version has to be answered, and the device described.
    Asked,
    /// The device is described.
    Described,
    /// Reports may be sent.
    Ready,
}

/// The mouse.
pub struct SynthMouse {
    log: GuestLog,
    channel: Option<Channel>,
    phase: Phase,
    asked: Option<u32>,
    at: (u16, u16),
    buttons: u8,
    wheel: i16,
    moved: bool,
}

impl SynthMouse {
    /// Its name in the machine.
    pub const NAME: &str = "synthetic_mouse";

    /// A mouse that no driver has opened.
    pub fn new(reactor: &Reactor) -> SynthMouse {
        SynthMouse {
            log: GuestLog::new(reactor, SynthMouse::NAME),
            channel: None,
            phase: Phase::Silent,
            asked: None,
            at: (0, 0),
            buttons: 0,
            wheel: 0,
            moved: false,
        }
    }

    /// The mouse that was saved.
    ///
    /// # Errors
    /// The state is not one of this kind.
    pub fn restore(reactor: &Reactor, state: &SavedState) -> Result<SynthMouse, SavedStateError> {
        let saved: SavedMouse = state.decode(1..=VERSION)?;
        let phase = match saved.phase {
            1 => Phase::Asked,
            2 => Phase::Described,
            3 => Phase::Ready,
            _ => Phase::Silent,
        };
        let last = POSITIONS - 1;
        Ok(SynthMouse {
            phase,
            asked: saved.asked,
            at: (saved.at.0.min(last), saved.at.1.min(last)),
            buttons: saved.buttons & 0x1f,
            wheel: saved.wheel,
            moved: saved.moved,
            ..SynthMouse::new(reactor)
        })
    }

    /// What to offer on the bus.
    pub fn offer() -> Offer {
        Offer::pipe(SynthMouse::NAME, class::MOUSE, class::MOUSE_INSTANCE)
    }

    /// Whether the guest's driver takes positions.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready && self.channel.is_some()
    }

    /// The pointer moves, or a button or the wheel is used. While the guest does not read, it will get the last position and
    /// the sum of the turns. False when it has no driver.
    pub fn pointer(&mut self, pointer: Pointer) -> bool {
        if !self.is_ready() {
            return false;
        }
        let Pointer { x, y, wheel, buttons } = pointer;
        let Buttons { left, right, middle, back, forward } = buttons;
        self.at = (x.min(POSITIONS - 1), y.min(POSITIONS - 1));
        self.wheel = self.wheel.saturating_add(wheel);
        let pressed = [left, right, middle, back, forward];
        self.buttons = (0..).zip(pressed).fold(0, |bits, (bit, down)| bits | u8::from(down) << bit);
        self.moved = true;
        self.send();
        true
    }

    fn message(&mut self, packet: &[u8]) {
        let word = |at: usize| Some(u32::from_le_bytes(packet.get(at..at + 4)?.try_into().ok()?));
        match (word(0), word(8), word(16)) {
            (Some(PIPE_DATA), Some(REQUEST), Some(version)) => {
                (self.phase, self.asked) = (Phase::Asked, Some(version));
            }
            (Some(PIPE_DATA), Some(INFORMATION_ACK), _) if self.phase == Phase::Described => self.phase = Phase::Ready,
            (_, kind, _) => guest_debug!(self.log, "a message of type {kind:?} is ignored"),
        }
    }

    /// Sends what waits, as far as there is room.
    fn send(&mut self) {
        let Some(channel) = &mut self.channel else { return };
        let mut send = |kind: u32, body: &[u8]| {
            let mut payload = Vec::with_capacity(16 + body.len());
            for word in [PIPE_DATA, 8 + body.len() as u32, kind, body.len() as u32] {
                payload.extend(word.to_le_bytes());
            }
            payload.extend(body);
            channel.send(Outgoing::InBand { transaction: 0, wants_completion: false, payload: &payload }).is_ok()
        };
        if let Some(version) = self.asked {
            let approved = version >> 16 == MAJOR;
            let mut body = version.to_le_bytes().to_vec();
            body.push(u8::from(approved));
            if !send(RESPONSE, &body) {
                return;
            }
            self.asked = None;
            if !approved {
                self.phase = Phase::Silent;
            }
        }
        if self.phase == Phase::Asked {
            let mut body = IDENTITY.to_vec();
            body.resize(32, 0);
            body.extend(HID_DESCRIPTOR);
            body.extend(REPORT_DESCRIPTOR);
            if !send(DEVICE_INFORMATION, &body) {
                return;
            }
            self.phase = Phase::Described;
        }
        if self.phase == Phase::Ready && self.moved {
            let mut body = vec![self.buttons];
            body.extend(self.at.0.to_le_bytes());
            body.extend(self.at.1.to_le_bytes());
            body.extend(self.wheel.to_le_bytes());
            if send(REPORT, &body) {
                (self.moved, self.wheel) = (false, 0);
            }
        }
    }

    fn forget(&mut self) {
        (self.phase, self.asked, self.moved, self.wheel) = (Phase::Silent, None, false, 0);
    }
}

impl ChannelDevice for SynthMouse {
    fn open(&mut self, channel: Channel) -> Result<(), OpenRefused> {
        if !channel.is_restored() {
            self.forget();
        }
        self.channel = Some(channel);
        Ok(())
    }

    fn close(&mut self, _index: u16, quiet: QuiesceToken) {
        self.channel = None;
        self.forget();
        drop(quiet);
    }

    fn signalled(&mut self, _index: u16) {
        let mut packet = Packet::default();
        for _ in 0..64 {
            let Some(channel) = &mut self.channel else { return };
            if !channel.receive_into(&mut packet) {
                break;
            }
            if packet.wants_completion() && channel.complete(packet.transaction(), &[]).is_err() {
                guest_debug!(self.log, "a packet could not be completed: the guest does not read");
            }
            self.message(packet.payload());
        }
        if let Some(channel) = self.channel.as_ref().filter(|channel| channel.has_packets()) {
            channel.wake();
        }
        self.send();
    }
}

impl Device for SynthMouse {
    fn name(&self) -> &str {
        SynthMouse::NAME
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let saved = SavedMouse {
            phase: self.phase as u8,
            at: self.at,
            buttons: self.buttons,
            wheel: self.wheel,
            moved: self.moved,
            asked: self.asked,
        };
        SavedState::encode(KIND, VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        json!({ "ready": self.is_ready(), "at": [self.at.0, self.at.1], "buttons": self.buttons })
    }

    /// The bus closes the channel, and that resets the rest.
    fn reset(&mut self) {}
}
