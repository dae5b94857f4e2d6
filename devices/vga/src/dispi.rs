//! The Bochs display interface: eleven registers of 16 bits that set a linear mode.

/// Largest picture.
pub(crate) const MAX_WIDTH: u16 = 2560;
/// Largest picture.
pub(crate) const MAX_HEIGHT: u16 = 1600;

const ENABLED: u16 = 0x01;
const GET_CAPABILITIES: u16 = 0x02;
const WIDE_PALETTE: u16 = 0x20;
const NO_CLEAR: u16 = 0x80;

pub(crate) mod index {
    pub const ID: u16 = 0;
    pub const WIDTH: u16 = 1;
    pub const HEIGHT: u16 = 2;
    pub const DEPTH: u16 = 3;
    pub const ENABLE: u16 = 4;
    pub const BANK: u16 = 5;
    pub const VIRTUAL_WIDTH: u16 = 6;
    pub const VIRTUAL_HEIGHT: u16 = 7;
    pub const X_OFFSET: u16 = 8;
    pub const Y_OFFSET: u16 = 9;
    pub const MEMORY_64K: u16 = 10;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dispi {
    pub index: u16,
    pub id: u16,
    pub width: u16,
    pub height: u16,
    /// Bits of a pixel: 4, 8, 15, 16, 24 or 32.
    pub depth: u16,
    pub enable: u16,
    pub bank: u16,
    pub virtual_width: u16,
    pub x_offset: u16,
    pub y_offset: u16,
    /// Bytes of video memory.
    pub memory: u32,
}

/// What a write to the registers asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    Redraw,
    /// A mode was set: its memory is cleared, and it is drawn.
    Clear,
}

impl Dispi {
    pub fn new(memory: u32) -> Dispi {
        Dispi {
            index: 0,
            id: 0xb0c5,
            width: 0,
            height: 0,
            depth: 8,
            enable: 0,
            bank: 0,
            virtual_width: 0,
            x_offset: 0,
            y_offset: 0,
            memory,
        }
    }

    pub fn enabled(&self) -> bool {
        self.enable & ENABLED != 0
    }

    /// Palette values have eight bits.
    pub fn wide_palette(&self) -> bool {
        self.enable & WIDE_PALETTE != 0
    }

    /// Bytes from a row to the next.
    pub fn pitch(&self) -> u32 {
        u32::from(self.virtual_width) * u32::from(self.depth).next_multiple_of(4) / 8
    }

    /// First byte that is shown.
    pub fn start(&self) -> u32 {
        let x = u32::from(self.x_offset) * u32::from(self.depth).next_multiple_of(4) / 8;
        // 16 bits times at most 4 * 65535 fit 34: wrap as the address lines do.
        u32::from(self.y_offset).wrapping_mul(self.pitch()).wrapping_add(x) % self.memory
    }

    pub fn read(&self, index: u16) -> u16 {
        let asks = self.enable & GET_CAPABILITIES != 0;
        match index {
            index::ID => self.id,
            index::WIDTH if asks => MAX_WIDTH,
            index::HEIGHT if asks => MAX_HEIGHT,
            index::DEPTH if asks => 32,
            index::WIDTH => self.width,
            index::HEIGHT => self.height,
            index::DEPTH => self.depth,
            index::ENABLE => self.enable,
            index::BANK => self.bank,
            index::VIRTUAL_WIDTH => self.virtual_width,
            index::VIRTUAL_HEIGHT => match self.pitch() {
                0 => 0,
                pitch => (self.memory / pitch).min(0xffff) as u16,
            },
            index::X_OFFSET => self.x_offset,
            index::Y_OFFSET => self.y_offset,
            index::MEMORY_64K => (self.memory >> 16) as u16,
            _ => 0,
        }
    }

    pub fn write(&mut self, index: u16, value: u16) -> Effect {
        match index {
            index::ID if (0xb0c0..=0xb0c5).contains(&value) => self.id = value,
            index::WIDTH if value <= MAX_WIDTH => self.width = value & !7,
            index::HEIGHT if value <= MAX_HEIGHT => self.height = value,
            index::DEPTH if matches!(value, 0 | 4 | 8 | 15 | 16 | 24 | 32) => {
                self.depth = if value == 0 { 8 } else { value };
            }
            index::BANK => self.bank = value & ((self.memory >> 16) as u16).wrapping_sub(1),
            index::ENABLE => return self.write_enable(value),
            index::VIRTUAL_WIDTH => {
                self.virtual_width = (value & !7).max(self.width);
                return Effect::Redraw;
            }
            index::X_OFFSET => {
                self.x_offset = value;
                return Effect::Redraw;
            }
            index::Y_OFFSET => {
                self.y_offset = value;
                return Effect::Redraw;
            }
            _ => {}
        }
        Effect::None
    }

    fn write_enable(&mut self, value: u16) -> Effect {
        let was = std::mem::replace(&mut self.enable, value);
        if value & ENABLED == 0 {
            self.bank = 0;
            return if was & ENABLED != 0 { Effect::Redraw } else { Effect::None };
        }
        if was & ENABLED != 0 {
            return Effect::Redraw;
        }
        self.virtual_width = self.width;
        (self.x_offset, self.y_offset, self.bank) = (0, 0, 0);
        if value & NO_CLEAR == 0 { Effect::Clear } else { Effect::Redraw }
    }
}
