//! The synthetic keyboard: one message per key going down or up.
//!
//! ```text
//! guest  {u32 1, u32 version}            host  {u32 2, u32 accepted}
//! host   {u32 3, u16 make code, u16 0, u32 flags: 1 unicode, 2 up, 4 prefix E0h, 8 prefix E1h}
//! guest  {u32 4, u32 LEDs}
//! ```

use crate::saved_state::{SavedKeyboard, VERSION};
use bulkhead_device::{Device, QuiesceToken};
use bulkhead_guest_log::{GuestLog, guest_debug, guest_info};
use bulkhead_reactor::Reactor;
use bulkhead_saved_state::{SavedState, SavedStateError};
use bulkhead_vmbus_channel::{Channel, ChannelDevice, Offer, OpenRefused, Outgoing, Packet, SendError, class};
use serde_json::json;
use std::collections::VecDeque;

const KIND: &str = "synthetic-keyboard";
const REQUEST: u32 = 1;
const RESPONSE: u32 = 2;
const EVENT: u32 = 3;
const SET_LEDS: u32 = 4;
const MAJOR: u32 = 1;
const UP: u32 = 2;
const E0: u32 = 4;
const E1: u32 = 8;
/// Messages that may wait for room; more keys are refused.
const BUFFER: usize = 64;

/// A key, by its code in scan code set 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A key with a plain code, 01h to 7Fh.
    Plain(u8),
    /// A key with prefix E0h: `Extended(0x48)` is cursor up.
    Extended(u8),
    /// Pause, which has a code for press only.
    Pause,
}

/// The LEDs, as the guest last set them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leds {
    /// Scroll Lock.
    pub scroll: bool,
    /// Num Lock.
    pub num: bool,
    /// Caps Lock.
    pub caps: bool,
}

/// The keyboard.
pub struct SynthKeyboard {
    log: GuestLog,
    channel: Option<Channel>,
    ready: bool,
    leds: u8,
    answer: Option<bool>,
    unsent: VecDeque<(u16, u32)>,
}

impl SynthKeyboard {
    /// Its name in the machine.
    pub const NAME: &str = "synthetic_keyboard";

    /// A keyboard that no driver has opened.
    pub fn new(reactor: &Reactor) -> SynthKeyboard {
        SynthKeyboard {
            log: GuestLog::new(reactor, SynthKeyboard::NAME),
            channel: None,
            ready: false,
            leds: 0,
            answer: None,
            unsent: VecDeque::new(),
        }
    }

    /// The keyboard that was saved.
    ///
    /// # Errors
    /// The state is not one of this kind.
    pub fn restore(reactor: &Reactor, state: &SavedState) -> Result<SynthKeyboard, SavedStateError> {
        let saved: SavedKeyboard = state.decode(1..=VERSION)?;
        let unsent = saved.unsent.into_iter().take(BUFFER).collect();
        let SavedKeyboard { ready, leds, answer, .. } = saved;
        Ok(SynthKeyboard { ready, leds, answer, unsent, ..SynthKeyboard::new(reactor) })
    }

    /// What to offer on the bus.
    pub fn offer() -> Offer {
        Offer::pipe(SynthKeyboard::NAME, class::KEYBOARD, class::KEYBOARD_INSTANCE)
    }

    /// Whether the guest's driver takes keys.
    pub fn is_ready(&self) -> bool {
        self.ready && self.channel.is_some()
    }

    /// The LEDs.
    pub fn leds(&self) -> Leds {
        Leds { scroll: self.leds & 1 != 0, num: self.leds & 2 != 0, caps: self.leds & 4 != 0 }
    }

    /// A key goes down or up. False when the guest has no driver, or does not read.
    pub fn key(&mut self, key: Key, down: bool) -> bool {
        if !self.is_ready() {
            return false;
        }
        let up = if down { 0 } else { UP };
        let messages: &[(u16, u32)] = match key {
            Key::Plain(code) => &[(u16::from(code & 0x7f), up)],
            Key::Extended(code) => &[(u16::from(code & 0x7f), up | E0)],
            // Its release is part of the press.
            Key::Pause if !down => &[],
            Key::Pause => &[(0x1d, E1), (0x45, 0), (0x1d, E1 | UP), (0x45, UP)],
        };
        let room = self.unsent.len() + messages.len() <= BUFFER;
        if room {
            self.unsent.extend(messages);
        }
        self.send();
        room
    }

    fn message(&mut self, packet: &[u8]) {
        let word = |at: usize| Some(u32::from_le_bytes(packet.get(at..at + 4)?.try_into().ok()?));
        match (word(0), word(4)) {
            (Some(REQUEST), Some(version)) => {
                let accepted = version >> 16 == MAJOR;
                guest_info!(self.log, "keyboard driver, version {}.{}", version >> 16, version & 0xffff);
                self.ready = accepted;
                self.answer = Some(accepted);
            }
            (Some(SET_LEDS), Some(leds)) => self.leds = leds as u8 & 7,
            (kind, _) => guest_debug!(self.log, "a message of type {kind:?} is ignored"),
        }
    }

    /// Sends what waits, as far as there is room.
    fn send(&mut self) {
        let Some(channel) = &mut self.channel else { return };
        if let Some(accepted) = self.answer {
            let mut payload = RESPONSE.to_le_bytes().to_vec();
            payload.extend(u32::from(accepted).to_le_bytes());
            let sent = channel.send(Outgoing::InBand { transaction: 0, wants_completion: false, payload: &payload });
            if sent.is_err() {
                return;
            }
            self.answer = None;
        }
        while let Some(&(code, flags)) = self.unsent.front() {
            let mut payload = EVENT.to_le_bytes().to_vec();
            payload.extend(code.to_le_bytes());
            payload.extend([0; 2]);
            payload.extend(flags.to_le_bytes());
            match channel.send(Outgoing::InBand { transaction: 0, wants_completion: false, payload: &payload }) {
                Ok(()) => drop(self.unsent.pop_front()),
                Err(SendError::Full { .. }) => return,
                Err(_) => return self.unsent.clear(),
            }
        }
    }
}

impl ChannelDevice for SynthKeyboard {
    fn open(&mut self, channel: Channel) -> Result<(), OpenRefused> {
        if !channel.is_restored() {
            (self.ready, self.leds, self.answer) = (false, 0, None);
            self.unsent.clear();
        }
        self.channel = Some(channel);
        Ok(())
    }

    fn close(&mut self, _index: u16, quiet: QuiesceToken) {
        self.channel = None;
        (self.ready, self.leds, self.answer) = (false, 0, None);
        self.unsent.clear();
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

impl Device for SynthKeyboard {
    fn name(&self) -> &str {
        SynthKeyboard::NAME
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let saved = SavedKeyboard {
            ready: self.ready,
            leds: self.leds,
            unsent: self.unsent.iter().copied().collect(),
            answer: self.answer,
        };
        SavedState::encode(KIND, VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        json!({ "ready": self.is_ready(), "leds": self.leds, "unsent": self.unsent.len() })
    }

    /// The bus closes the channel, and that resets the rest.
    fn reset(&mut self) {}
}
