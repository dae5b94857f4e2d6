//! The 8042: one output buffer for keyboard, mouse and its own answers, translation to set 1, A20 and reset.

use crate::keyboard::{Key, Keyboard, Leds};
use crate::mouse::{Buttons, Mouse, Movement};
use crate::saved_state::SavedPs2;
use crate::scancode::to_set_1;
use bulkhead_device::{Device, Line, PortIo, PowerRequest, PowerSink};
use bulkhead_saved_state::{SavedState, SavedStateError};
use serde_json::json;
use std::collections::VecDeque;
use std::sync::Arc;

const KIND: &str = "ps2";
const VERSION: u32 = 1;
const REPLIES: usize = 16;

/// Bits of the command byte.
mod mode {
    pub const KEYBOARD_INTERRUPT: u8 = 0x01;
    pub const MOUSE_INTERRUPT: u8 = 0x02;
    pub const SYSTEM: u8 = 0x04;
    pub const KEYBOARD_OFF: u8 = 0x10;
    pub const MOUSE_OFF: u8 = 0x20;
    pub const TRANSLATE: u8 = 0x40;
}

/// Bits of the status register.
mod status {
    pub const OUTPUT_FULL: u8 = 0x01;
    pub const COMMAND: u8 = 0x08;
    pub const UNLOCKED: u8 = 0x10;
    pub const MOUSE: u8 = 0x20;
}

/// The keyboard controller with its devices. Banks: 0 = port 60h, 1 = port 64h, 2 = port 92h.
pub struct Ps2 {
    name: String,
    keyboard_irq: Line,
    mouse_irq: Line,
    power: Arc<dyn PowerSink>,
    keyboard: Keyboard,
    mouse: Mouse,
    memory: [u8; 32],
    command: Option<u8>,
    last_was_command: bool,
    /// The byte at port 60h; it can be read again when it is not `full` any more.
    output: u8,
    full: bool,
    from_mouse: bool,
    replies: VecDeque<(u8, bool)>,
    break_prefix: bool,
    a20: bool,
    /// The self-test has run; shown as the system flag.
    tested: bool,
}

impl Ps2 {
    /// Number of the bank at 60h.
    pub const DATA: u8 = 0;
    /// Number of the bank at 64h.
    pub const COMMAND: u8 = 1;
    /// Number of the bank at 92h.
    pub const PORT_92: u8 = 2;

    /// A controller after reset. The lines are drivers of IRQ 1 and IRQ 12.
    pub fn new(name: &str, keyboard_irq: Line, mouse_irq: Line, power: Arc<dyn PowerSink>) -> Ps2 {
        let mut memory = [0; 32];
        memory[0] = mode::KEYBOARD_INTERRUPT | mode::MOUSE_INTERRUPT;
        Ps2 {
            name: name.into(),
            keyboard_irq,
            mouse_irq,
            power,
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
            memory,
            command: None,
            last_was_command: true,
            output: 0,
            full: false,
            from_mouse: false,
            replies: VecDeque::new(),
            break_prefix: false,
            a20: true,
            tested: false,
        }
    }

    /// The controller that was saved.
    ///
    /// # Errors
    /// When `state` is of another version or damaged.
    pub fn restore(
        name: &str,
        keyboard_irq: Line,
        mouse_irq: Line,
        power: Arc<dyn PowerSink>,
        state: &SavedState,
    ) -> Result<Ps2, SavedStateError> {
        let saved: SavedPs2 = state.decode(VERSION..=VERSION)?;
        let mut ps2 = Ps2::new(name, keyboard_irq, mouse_irq, power);
        ps2.memory.iter_mut().zip(&saved.memory).for_each(|(byte, saved)| *byte = *saved);
        (ps2.command, ps2.last_was_command) = (saved.command, saved.last_was_command);
        (ps2.output, ps2.full, ps2.from_mouse) = saved.output;
        ps2.replies = saved.replies.iter().copied().take(REPLIES).collect();
        (ps2.break_prefix, ps2.a20, ps2.tested) = (saved.break_prefix, saved.a20, saved.tested);
        ps2.keyboard = Keyboard::from_saved(&saved.keyboard);
        ps2.mouse = Mouse::from_saved(&saved.mouse);
        ps2.drive_interrupts();
        Ok(ps2)
    }

    /// A key goes down or up. False when the guest has not read the keys before and this one is lost.
    pub fn key(&mut self, key: Key, down: bool) -> bool {
        let taken = self.keyboard.key(key, down);
        self.fill();
        taken
    }

    /// The mouse moves or its buttons change. Movements add up until the guest reads them.
    pub fn mouse(&mut self, movement: Movement, buttons: Buttons) {
        self.mouse.act(movement, buttons);
        self.fill();
    }

    /// The keyboard's LEDs.
    pub fn leds(&self) -> Leds {
        self.keyboard.leds()
    }

    fn mode(&self, bit: u8) -> bool {
        self.memory[0] & bit != 0
    }

    fn set_mode(&mut self, bit: u8, on: bool) {
        self.memory[0] = if on { self.memory[0] | bit } else { self.memory[0] & !bit };
    }

    /// Puts the next byte into an empty output buffer: the controller's own first, then the keyboard's, then the mouse's.
    fn fill(&mut self) {
        if !self.full
            && let Some((byte, mouse)) = self.next()
        {
            (self.output, self.full, self.from_mouse) = (byte, true, mouse);
        }
        self.drive_interrupts();
    }

    fn next(&mut self) -> Option<(u8, bool)> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        while !self.mode(mode::KEYBOARD_OFF) {
            let Some(byte) = self.keyboard.pop() else { break };
            if let Some(byte) = self.translate(byte) {
                return Some((byte, false));
            }
        }
        if self.mode(mode::MOUSE_OFF) { None } else { Some((self.mouse.pop()?, true)) }
    }

    /// From set 2 to set 1, if software wants that; `None` for the break prefix, which becomes a bit of the next byte.
    fn translate(&mut self, byte: u8) -> Option<u8> {
        if !self.mode(mode::TRANSLATE) {
            return Some(byte);
        }
        if byte == 0xf0 {
            self.break_prefix = true;
            return None;
        }
        let release = if std::mem::take(&mut self.break_prefix) { 0x80 } else { 0 };
        Some(to_set_1(byte) | release)
    }

    fn drive_interrupts(&self) {
        self.keyboard_irq.set(self.full && !self.from_mouse && self.mode(mode::KEYBOARD_INTERRUPT));
        self.mouse_irq.set(self.full && self.from_mouse && self.mode(mode::MOUSE_INTERRUPT));
    }

    fn reply(&mut self, byte: u8) {
        self.reply_as(byte, false);
    }

    /// An answer that looks as if it came from the keyboard or the mouse.
    fn reply_as(&mut self, byte: u8, mouse: bool) {
        if self.replies.len() < REPLIES {
            self.replies.push_back((byte, mouse));
        }
    }

    fn read_data(&mut self) -> u8 {
        let byte = self.output;
        if self.full {
            self.full = false;
            // The lines fall before the next byte raises them: edges for each byte.
            self.drive_interrupts();
            self.fill();
        }
        byte
    }

    fn status(&self) -> u8 {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        status::UNLOCKED
            | flag(self.full, status::OUTPUT_FULL)
            | flag(self.full && self.from_mouse, status::MOUSE)
            | flag(self.last_was_command, status::COMMAND)
            | flag(self.tested || self.mode(mode::SYSTEM), mode::SYSTEM)
    }

    fn output_port(&self) -> u8 {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let pending = flag(self.keyboard_irq.level(), 0x10) | flag(self.mouse_irq.level(), 0x20);
        0xc1 | flag(self.a20, 2) | pending
    }

    fn write_data(&mut self, value: u8) {
        self.last_was_command = false;
        match self.command.take() {
            None => {
                self.set_mode(mode::KEYBOARD_OFF, false);
                self.keyboard.write(value);
            }
            Some(command @ 0x60..=0x7f) => self.memory[usize::from(command & 0x1f)] = value,
            Some(0xd1) => {
                self.a20 = value & 2 != 0;
                if value & 1 == 0 {
                    self.power.request(PowerRequest::Reset);
                }
            }
            Some(0xd2) => self.reply(value),
            Some(0xd3) => self.reply_as(value, true),
            Some(_) => {
                self.set_mode(mode::MOUSE_OFF, false);
                self.mouse.write(value);
            }
        }
        self.fill();
    }

    fn write_command(&mut self, command: u8) {
        self.last_was_command = true;
        self.command = None;
        match command {
            0x20..=0x3f => self.reply(self.memory[usize::from(command & 0x1f)]),
            0x60..=0x7f | 0xd1..=0xd4 => self.command = Some(command),
            // No password is installed.
            0xa4 => self.reply(0xf1),
            0xa7 => self.set_mode(mode::MOUSE_OFF, true),
            0xa8 => self.set_mode(mode::MOUSE_OFF, false),
            // Tests of both interfaces, and of the controller itself.
            0xa9 | 0xab => self.reply(0),
            0xaa => {
                self.tested = true;
                self.reply(0x55);
            }
            0xad => self.set_mode(mode::KEYBOARD_OFF, true),
            0xae => self.set_mode(mode::KEYBOARD_OFF, false),
            0xc0 => self.reply(0x80),
            0xd0 => self.reply(self.output_port()),
            0xdd => self.a20 = false,
            0xdf => self.a20 = true,
            0xe0 => self.reply(0),
            // Pulses output lines; line 0 is the processor's reset, low active.
            0xf0.. if command & 1 == 0 => self.power.request(PowerRequest::Reset),
            _ => {}
        }
        self.fill();
    }
}

impl Device for Ps2 {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let saved = SavedPs2 {
            memory: self.memory.to_vec(),
            command: self.command,
            last_was_command: self.last_was_command,
            output: (self.output, self.full, self.from_mouse),
            replies: self.replies.iter().copied().collect(),
            break_prefix: self.break_prefix,
            a20: self.a20,
            tested: self.tested,
            keyboard: self.keyboard.save(),
            mouse: self.mouse.save(),
        };
        SavedState::encode(KIND, VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        let Leds { scroll, num, caps } = self.leds();
        json!({ "mode": self.memory[0], "status": self.status(), "a20": self.a20,
                "leds": { "scroll": scroll, "num": num, "caps": caps } })
    }

    fn reset(&mut self) {
        self.memory = [0; 32];
        self.memory[0] = mode::KEYBOARD_INTERRUPT | mode::MOUSE_INTERRUPT;
        (self.command, self.last_was_command, self.full, self.break_prefix, self.a20) =
            (None, true, false, false, true);
        self.tested = false;
        self.replies.clear();
        self.keyboard = Keyboard::default();
        self.mouse = Mouse::default();
        self.drive_interrupts();
    }
}

impl PortIo for Ps2 {
    fn port_read(&mut self, bank: u8, _offset: u16, _size: u8) -> u32 {
        let value = match bank {
            Self::DATA => self.read_data(),
            Self::COMMAND => self.status(),
            _ => u8::from(self.a20) << 1,
        };
        u32::from(value)
    }

    fn port_write(&mut self, bank: u8, _offset: u16, _size: u8, value: u32) {
        let value = value as u8;
        match bank {
            Self::DATA => self.write_data(value),
            Self::COMMAND => self.write_command(value),
            _ => {
                self.a20 = value & 2 != 0;
                if value & 1 != 0 {
                    self.power.request(PowerRequest::Reset);
                }
            }
        }
    }
}
