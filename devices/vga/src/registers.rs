//! The registers of the VGA, by their index; reading and writing as drivers do it.

/// Ports that are not 3Bxh or 3Dxh by the choice of colour or monochrome.
pub(crate) mod port {
    pub const ATTRIBUTE: u16 = 0x3c0;
    pub const ATTRIBUTE_READ: u16 = 0x3c1;
    /// Miscellaneous output (write), input status 0 (read).
    pub const MISC: u16 = 0x3c2;
    pub const SEQUENCER_INDEX: u16 = 0x3c4;
    pub const SEQUENCER: u16 = 0x3c5;
    pub const PEL_MASK: u16 = 0x3c6;
    /// Index for reading (write), which way (read).
    pub const DAC_READ: u16 = 0x3c7;
    pub const DAC_WRITE: u16 = 0x3c8;
    pub const DAC: u16 = 0x3c9;
    pub const MISC_READ: u16 = 0x3cc;
    pub const GRAPHICS_INDEX: u16 = 0x3ce;
    pub const GRAPHICS: u16 = 0x3cf;
    pub const CRTC_INDEX: u16 = 0x3d4;
    pub const CRTC: u16 = 0x3d5;
    /// Input status 1.
    pub const STATUS: u16 = 0x3da;
}

pub(crate) mod seq {
    pub const CLOCKING: usize = 1;
    pub const MAP_MASK: usize = 2;
    pub const CHARACTER_MAP: usize = 3;
    pub const MEMORY_MODE: usize = 4;
    pub const COUNT: usize = 8;
}

pub(crate) mod gc {
    pub const SET_RESET: usize = 0;
    pub const ENABLE_SET_RESET: usize = 1;
    pub const COLOR_COMPARE: usize = 2;
    pub const ROTATE: usize = 3;
    pub const READ_MAP: usize = 4;
    pub const MODE: usize = 5;
    pub const MISC: usize = 6;
    pub const COLOR_DO_NOT_CARE: usize = 7;
    pub const BIT_MASK: usize = 8;
    pub const COUNT: usize = 16;
}

pub(crate) mod crtc {
    pub const HORIZONTAL_END: usize = 0x01;
    pub const OVERFLOW: usize = 0x07;
    pub const MAX_SCAN_LINE: usize = 0x09;
    pub const CURSOR_START: usize = 0x0a;
    pub const CURSOR_END: usize = 0x0b;
    pub const START_HIGH: usize = 0x0c;
    pub const START_LOW: usize = 0x0d;
    pub const CURSOR_HIGH: usize = 0x0e;
    pub const CURSOR_LOW: usize = 0x0f;
    pub const VERTICAL_SYNC_END: usize = 0x11;
    pub const VERTICAL_END: usize = 0x12;
    pub const OFFSET: usize = 0x13;
    pub const MODE: usize = 0x17;
    pub const LINE_COMPARE: usize = 0x18;
    pub const COUNT: usize = 0x20;
}

pub(crate) mod attribute {
    pub const MODE: usize = 0x10;
    pub const PLANE_ENABLE: usize = 0x12;
    pub const COLOR_SELECT: usize = 0x14;
    pub const COUNT: usize = 0x20;
    /// Bit of the index: the palette belongs to the screen, not to the processor.
    pub const SCREEN_ON: u8 = 0x20;
}

/// Values and flip-flops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registers {
    pub misc: u8,
    pub feature: u8,
    pub seq_index: u8,
    pub seq: [u8; seq::COUNT],
    pub gc_index: u8,
    pub gc: [u8; gc::COUNT],
    pub crtc_index: u8,
    pub crtc: [u8; crtc::COUNT],
    pub attribute_index: u8,
    /// The next write to 3C0h is data.
    pub attribute_data: bool,
    pub attribute: [u8; attribute::COUNT],
    pub pel_mask: u8,
    /// Red, green, blue of 256 colours.
    pub palette: [u8; 768],
    pub dac_write: u8,
    pub dac_read: u8,
    /// Which of the three comes next.
    pub dac_component: u8,
    pub dac_reading: bool,
    /// What came before the third.
    pub dac_pending: [u8; 3],
}

impl Registers {
    pub fn new() -> Registers {
        Registers {
            misc: 0,
            feature: 0,
            seq_index: 0,
            seq: [0; seq::COUNT],
            gc_index: 0,
            gc: [0; gc::COUNT],
            crtc_index: 0,
            crtc: [0; crtc::COUNT],
            attribute_index: 0,
            attribute_data: false,
            attribute: [0; attribute::COUNT],
            pel_mask: 0xff,
            palette: [0; 768],
            dac_write: 0,
            dac_read: 0,
            dac_component: 0,
            dac_reading: false,
            dac_pending: [0; 3],
        }
    }

    /// Where a port in 3B0h–3DFh leads now: the monochrome and colour addresses are the same registers, one of them there.
    pub fn resolve(&self, port: u16) -> Option<u16> {
        let color = self.misc & 1 != 0;
        match port {
            0x3b0..=0x3bf => (!color).then_some(port + 0x20),
            0x3d0..=0x3df => color.then_some(port),
            _ => Some(port),
        }
    }

    /// Reads a resolved port other than the status. `wide`: palette values have eight bits.
    pub fn read(&mut self, port: u16, wide: bool) -> u8 {
        match port {
            port::ATTRIBUTE => self.attribute_index,
            port::ATTRIBUTE_READ => self.attribute[usize::from(self.attribute_index & 0x1f)],
            // A monitor is there.
            port::MISC => 0x10,
            port::SEQUENCER_INDEX => self.seq_index,
            port::SEQUENCER => self.seq[usize::from(self.seq_index & 7)],
            port::PEL_MASK => self.pel_mask,
            port::DAC_READ => u8::from(self.dac_reading) * 3,
            port::DAC_WRITE => self.dac_write,
            port::DAC => self.read_palette(wide),
            0x3ca => self.feature,
            port::MISC_READ => self.misc,
            port::GRAPHICS_INDEX => self.gc_index,
            port::GRAPHICS => self.gc[usize::from(self.gc_index & 15)],
            port::CRTC_INDEX => self.crtc_index,
            port::CRTC => self.crtc[usize::from(self.crtc_index & 0x1f)],
            _ => 0xff,
        }
    }

    /// Writes a resolved port; true when the screen may look different now.
    pub fn write(&mut self, port: u16, value: u8, wide: bool) -> bool {
        match port {
            port::ATTRIBUTE => return self.write_attribute(value),
            port::MISC => self.misc = value,
            port::SEQUENCER_INDEX => self.seq_index = value & 7,
            port::SEQUENCER => {
                const MASKS: [u8; seq::COUNT] = [0x03, 0x3d, 0x0f, 0x3f, 0x0e, 0, 0, 0xff];
                let index = usize::from(self.seq_index & 7);
                return replace(&mut self.seq[index], value & MASKS[index]) && index != seq::MAP_MASK;
            }
            port::PEL_MASK => return replace(&mut self.pel_mask, value),
            port::DAC_READ => {
                (self.dac_read, self.dac_component, self.dac_reading) = (value, 0, true);
            }
            port::DAC_WRITE => {
                (self.dac_write, self.dac_component, self.dac_reading) = (value, 0, false);
            }
            port::DAC => return self.write_palette(value, wide),
            port::GRAPHICS_INDEX => self.gc_index = value & 15,
            port::GRAPHICS => {
                const MASKS: [u8; 9] = [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff];
                let index = usize::from(self.gc_index & 15);
                let mask = MASKS.get(index).copied().unwrap_or(0);
                return replace(&mut self.gc[index], value & mask) && matches!(index, gc::MODE | gc::MISC);
            }
            port::CRTC_INDEX => self.crtc_index = value & 0x1f,
            port::CRTC => return self.write_crtc(value),
            port::STATUS => self.feature = value & 0x10,
            _ => {}
        }
        false
    }

    /// A read of the status makes the next write to 3C0h an index.
    pub fn status_read(&mut self) {
        self.attribute_data = false;
    }

    fn write_attribute(&mut self, value: u8) -> bool {
        self.attribute_data = !self.attribute_data;
        if self.attribute_data {
            return replace(&mut self.attribute_index, value & 0x3f);
        }
        let index = usize::from(self.attribute_index & 0x1f);
        let mask = match index {
            0..=0x0f | attribute::PLANE_ENABLE => 0x3f,
            attribute::MODE => 0xef,
            0x11 => 0xff,
            0x13 | attribute::COLOR_SELECT => 0x0f,
            _ => 0,
        };
        replace(&mut self.attribute[index], value & mask)
    }

    fn write_crtc(&mut self, value: u8) -> bool {
        let index = usize::from(self.crtc_index & 0x1f);
        let locked = self.crtc[crtc::VERTICAL_SYNC_END] & 0x80 != 0;
        if index <= crtc::OVERFLOW && locked {
            // Only the line compare bit of the overflow register is outside the lock.
            if index == crtc::OVERFLOW {
                let kept = self.crtc[index] & !0x10;
                return replace(&mut self.crtc[index], kept | value & 0x10);
            }
            return false;
        }
        replace(&mut self.crtc[index], value)
    }

    fn read_palette(&mut self, wide: bool) -> u8 {
        let value = self.palette[usize::from(self.dac_read) * 3 + usize::from(self.dac_component)];
        self.dac_component += 1;
        if self.dac_component == 3 {
            self.dac_component = 0;
            self.dac_read = self.dac_read.wrapping_add(1);
        }
        if wide { value } else { value >> 2 }
    }

    fn write_palette(&mut self, value: u8, wide: bool) -> bool {
        // Kept with eight bits: six-bit values are spread, so that white is white.
        let value = if wide { value } else { (value & 0x3f) << 2 | (value & 0x3f) >> 4 };
        self.dac_pending[usize::from(self.dac_component)] = value;
        self.dac_component += 1;
        if self.dac_component < 3 {
            return false;
        }
        self.dac_component = 0;
        let at = usize::from(self.dac_write) * 3;
        self.palette[at..at + 3].copy_from_slice(&self.dac_pending);
        self.dac_write = self.dac_write.wrapping_add(1);
        true
    }

    /// A colour of the palette.
    pub fn color(&self, index: u8) -> [u8; 3] {
        let at = usize::from(index & self.pel_mask) * 3;
        [self.palette[at], self.palette[at + 1], self.palette[at + 2]]
    }

    /// The sixteen colours of text and planar modes, through the attribute controller.
    pub fn sixteen_colors(&self) -> [[u8; 3]; 16] {
        let select = self.attribute[attribute::COLOR_SELECT];
        std::array::from_fn(|index| {
            let entry = self.attribute[index];
            let low = match self.attribute[attribute::MODE] & 0x80 {
                0 => entry & 0x3f,
                _ => entry & 0x0f | (select & 3) << 4,
            };
            self.color(low | (select & 0x0c) << 4)
        })
    }
}

fn replace(place: &mut u8, value: u8) -> bool {
    std::mem::replace(place, value) != value
}
