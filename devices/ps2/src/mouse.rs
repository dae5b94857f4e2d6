//! The mouse: stream and remote mode, and the wheel and five buttons of Microsoft's extension.

use crate::saved_state::SavedMouse;
use std::collections::VecDeque;

/// Bytes of packets that nobody has read yet; further movements add up instead.
const BUFFER: usize = 32;
const ACK: u8 = 0xfa;
const ERROR: u8 = 0xfc;
const RESEND: u8 = 0xfe;
const WHEEL: u8 = 3;
const FIVE_BUTTONS: u8 = 4;

/// Buttons that are down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Buttons {
    /// Left.
    pub left: bool,
    /// Right.
    pub right: bool,
    /// Middle, the wheel.
    pub middle: bool,
    /// Fourth, "back".
    pub back: bool,
    /// Fifth, "forward".
    pub forward: bool,
}

impl Buttons {
    fn bits(self) -> u8 {
        let all = [self.left, self.right, self.middle, self.back, self.forward];
        all.iter().enumerate().fold(0, |bits, (place, down)| bits | u8::from(*down) << place)
    }
}

/// A movement of the mouse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Movement {
    /// To the right.
    pub right: i32,
    /// Down, towards the user.
    pub down: i32,
    /// Notches of the wheel towards the user.
    pub wheel: i32,
}

#[derive(Debug)]
pub(crate) struct Mouse {
    replies: VecDeque<u8>,
    packets: VecDeque<u8>,
    command: Option<u8>,
    reporting: bool,
    remote: bool,
    wrap: bool,
    doubled: bool,
    resolution: u8,
    rate: u8,
    /// The last sample rates; certain sequences switch the extensions on.
    rates: [u8; 3],
    id: u8,
    buttons: u8,
    reported_buttons: u8,
    /// Not reported yet; y counts upwards, as the protocol does.
    moved: [i32; 3],
    last: u8,
}

impl Default for Mouse {
    fn default() -> Mouse {
        Mouse {
            replies: VecDeque::new(),
            packets: VecDeque::new(),
            command: None,
            reporting: false,
            remote: false,
            wrap: false,
            doubled: false,
            resolution: 2,
            rate: 100,
            rates: [0; 3],
            id: 0,
            buttons: 0,
            reported_buttons: 0,
            moved: [0; 3],
            last: 0,
        }
    }
}

impl Mouse {
    /// The mouse moves or its buttons change.
    pub fn act(&mut self, movement: Movement, buttons: Buttons) {
        let by = [movement.right, movement.down.saturating_neg(), movement.wheel];
        for (sum, by) in self.moved.iter_mut().zip(by) {
            // Far more than a screen is as good as a screen.
            *sum = sum.saturating_add(by).clamp(-10_000, 10_000);
        }
        self.buttons = buttons.bits();
        self.report();
    }

    /// Makes a packet if there is something to tell and room for it.
    fn report(&mut self) {
        let streaming = self.reporting && !self.remote && !self.wrap;
        let news = self.moved != [0; 3] || self.buttons != self.reported_buttons;
        if streaming && news && self.packets.len() + 4 <= BUFFER {
            let packet = self.packet();
            self.packets.extend(packet);
        }
        if !streaming {
            self.moved = [0; 3];
        }
    }

    /// Takes as much movement as fits into a packet.
    fn packet(&mut self) -> Vec<u8> {
        let x = self.moved[0].clamp(-256, 255);
        let y = self.moved[1].clamp(-256, 255);
        let wheel = self.moved[2].clamp(-8, 7);
        self.moved = [self.moved[0] - x, self.moved[1] - y, self.moved[2] - wheel];
        self.reported_buttons = self.buttons;
        let signs = u8::from(x < 0) << 4 | u8::from(y < 0) << 5;
        let mut packet = vec![self.buttons & 7 | 8 | signs, x as u8, y as u8];
        match self.id {
            WHEEL => packet.push(wheel as u8),
            FIVE_BUTTONS => packet.push(wheel as u8 & 0xf | (self.buttons & 0x18) << 1),
            _ => self.moved[2] = 0,
        }
        packet
    }

    /// The next byte for the controller.
    pub fn pop(&mut self) -> Option<u8> {
        if self.packets.is_empty() {
            self.report();
        }
        let byte = self.replies.pop_front().or_else(|| self.packets.pop_front())?;
        self.last = byte;
        Some(byte)
    }

    /// A byte from the controller.
    pub fn write(&mut self, byte: u8) {
        self.replies.clear();
        if self.wrap && byte != 0xec && byte != 0xff {
            return self.replies.push_back(byte);
        }
        match self.command.take() {
            Some(command) => self.parameter(command, byte),
            None => self.command(byte),
        }
    }

    fn parameter(&mut self, command: u8, value: u8) {
        match (command, value) {
            (0xe8, 0..=3) => self.resolution = value,
            (0xf3, 1..=200) => {
                self.rate = value;
                self.rates = [self.rates[1], self.rates[2], value];
                match self.rates {
                    [200, 100, 80] => self.id = WHEEL,
                    [200, 200, 80] => self.id = FIVE_BUTTONS,
                    _ => {}
                }
            }
            _ => return self.replies.push_back(ERROR),
        }
        self.replies.push_back(ACK);
    }

    fn command(&mut self, command: u8) {
        self.replies.push_back(ACK);
        match command {
            0xe6 => self.doubled = false,
            0xe7 => self.doubled = true,
            0xe8 | 0xf3 => self.command = Some(command),
            0xe9 => self.status(),
            0xea => self.remote = false,
            0xeb => {
                let packet = self.packet();
                self.replies.extend(packet);
            }
            0xec => self.wrap = false,
            0xee => self.wrap = true,
            0xf0 => self.remote = true,
            0xf2 => self.replies.push_back(self.id),
            0xf4 => self.reporting = true,
            0xf5 => {
                self.reporting = false;
                self.packets.clear();
            }
            0xf6 => self.defaults(self.id),
            0xfe => self.replies = VecDeque::from([self.last]),
            0xff => {
                self.defaults(0);
                self.replies.extend([0xaa, 0x00]);
            }
            _ => self.replies = VecDeque::from([RESEND]),
        }
    }

    fn defaults(&mut self, id: u8) {
        let replies = std::mem::take(&mut self.replies);
        *self = Mouse { replies, id, buttons: self.buttons, ..Mouse::default() };
    }

    fn status(&mut self) {
        let flags = u8::from(self.remote) << 6 | u8::from(self.reporting) << 5 | u8::from(self.doubled) << 4;
        // Here the order is left, middle, right from bit 2 down.
        let buttons = (self.buttons & 1) << 2 | self.buttons >> 1 & 2 | self.buttons >> 1 & 1;
        self.replies.extend([flags | buttons, self.resolution, self.rate]);
    }

    pub fn save(&self) -> SavedMouse {
        SavedMouse {
            replies: self.replies.iter().copied().collect(),
            packets: self.packets.iter().copied().collect(),
            command: self.command,
            reporting: self.reporting,
            remote: self.remote,
            wrap: self.wrap,
            doubled: self.doubled,
            resolution: self.resolution,
            rate: self.rate,
            rates: self.rates,
            id: self.id,
            buttons: self.buttons,
            reported_buttons: self.reported_buttons,
            moved: self.moved,
            last: self.last,
        }
    }

    pub fn from_saved(saved: &SavedMouse) -> Mouse {
        Mouse {
            replies: saved.replies.iter().copied().take(BUFFER).collect(),
            packets: saved.packets.iter().copied().take(BUFFER).collect(),
            command: saved.command,
            reporting: saved.reporting,
            remote: saved.remote,
            wrap: saved.wrap,
            doubled: saved.doubled,
            resolution: saved.resolution,
            rate: saved.rate,
            rates: saved.rates,
            id: saved.id,
            buttons: saved.buttons,
            reported_buttons: saved.reported_buttons,
            moved: saved.moved.map(|by| by.clamp(-10_000, 10_000)),
            last: saved.last,
        }
    }
}
