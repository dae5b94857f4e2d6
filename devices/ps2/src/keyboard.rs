//! The keyboard: commands, scan code sets 1 and 2, LEDs.

use crate::saved_state::SavedKeyboard;
use crate::scancode::to_set_2;
use std::collections::VecDeque;

/// Bytes of keys that nobody has read yet; more keys are refused.
const BUFFER: usize = 64;
const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;

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

#[derive(Debug)]
pub(crate) struct Keyboard {
    replies: VecDeque<u8>,
    keys: VecDeque<u8>,
    /// The command whose parameter comes next.
    command: Option<u8>,
    set: u8,
    scanning: bool,
    leds: u8,
    last: u8,
}

impl Default for Keyboard {
    fn default() -> Keyboard {
        Keyboard {
            replies: VecDeque::new(),
            keys: VecDeque::new(),
            command: None,
            set: 2,
            scanning: true,
            leds: 0,
            last: 0,
        }
    }
}

impl Keyboard {
    pub fn leds(&self) -> Leds {
        Leds { scroll: self.leds & 1 != 0, num: self.leds & 2 != 0, caps: self.leds & 4 != 0 }
    }

    /// A key goes down or up; false when the guest does not read its keyboard.
    pub fn key(&mut self, key: Key, down: bool) -> bool {
        let mut bytes = Vec::with_capacity(8);
        let release = if down { 0 } else { 0x80 };
        match (key, self.set) {
            (Key::Pause, _) if !down => {}
            (Key::Pause, 1) => bytes.extend([0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]),
            (Key::Pause, _) => bytes.extend([0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77]),
            (Key::Plain(code), 1) => bytes.push(code & 0x7f | release),
            (Key::Extended(code), 1) => bytes.extend([0xe0, code & 0x7f | release]),
            (Key::Plain(code) | Key::Extended(code), _) => {
                if matches!(key, Key::Extended(_)) {
                    bytes.push(0xe0);
                }
                if !down {
                    bytes.push(0xf0);
                }
                bytes.push(to_set_2(code & 0x7f));
            }
        }
        if !self.scanning {
            return true;
        }
        let room = self.keys.len() + bytes.len() <= BUFFER;
        if room {
            self.keys.extend(bytes);
        }
        room
    }

    /// The next byte for the controller.
    pub fn pop(&mut self) -> Option<u8> {
        let byte = self.replies.pop_front().or_else(|| self.keys.pop_front())?;
        self.last = byte;
        Some(byte)
    }

    /// A byte from the controller.
    pub fn write(&mut self, byte: u8) {
        self.replies.clear();
        match self.command.take() {
            // Instead of a parameter comes the next command.
            Some(command) if byte < 0x80 => self.parameter(command, byte),
            _ => self.command(byte),
        }
    }

    fn parameter(&mut self, command: u8, value: u8) {
        let mut reply = ACK;
        match (command, value) {
            (0xed, _) => self.leds = value & 7,
            (0xf0, 0) => {
                self.replies.extend([ACK, self.set]);
                return;
            }
            (0xf0, 1 | 2) => {
                self.set = value;
                self.keys.clear();
            }
            (0xf0, _) => reply = RESEND,
            // The repeat rate is whoever presses the key's affair.
            _ => {}
        }
        self.replies.push_back(reply);
    }

    fn command(&mut self, command: u8) {
        match command {
            0xed | 0xf0 | 0xf3 => self.command = Some(command),
            0xee => return self.replies.push_back(0xee),
            0xf2 => return self.replies.extend([ACK, 0xab, 0x83]),
            0xf4 => self.scanning = true,
            0xf5 => *self = Keyboard { scanning: false, leds: self.leds, ..Keyboard::default() },
            0xf6 => *self = Keyboard { leds: self.leds, ..Keyboard::default() },
            // Key types of set 3.
            0xf7..=0xfa => {}
            0xfe => return self.replies.push_back(self.last),
            0xff => {
                *self = Keyboard::default();
                return self.replies.extend([ACK, 0xaa]);
            }
            _ => return self.replies.push_back(RESEND),
        }
        self.replies.push_back(ACK);
    }

    pub fn save(&self) -> SavedKeyboard {
        SavedKeyboard {
            replies: self.replies.iter().copied().collect(),
            keys: self.keys.iter().copied().collect(),
            command: self.command,
            set: self.set,
            scanning: self.scanning,
            leds: self.leds,
            last: self.last,
        }
    }

    pub fn from_saved(saved: &SavedKeyboard) -> Keyboard {
        Keyboard {
            replies: saved.replies.iter().copied().take(BUFFER).collect(),
            keys: saved.keys.iter().copied().take(BUFFER).collect(),
            command: saved.command,
            set: saved.set.clamp(1, 2),
            scanning: saved.scanning,
            leds: saved.leds & 7,
            last: saved.last,
        }
    }
}
