//! What is on the screen: the mode that the registers describe.

use crate::dispi::Dispi;
use crate::registers::{Registers, attribute, crtc, gc, seq};

/// How pixels are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pixels {
    /// Cells of this size in pixels.
    Text { cell_width: u32, cell_height: u32 },
    /// Four planes, a bit each.
    Planar,
    /// Two bits in a byte, CGA's way.
    Packed,
    /// Bytes that are indices into the palette.
    Palette,
    /// Red, green and blue in 15, 16, 24 or 32 bits.
    Direct(u16),
}

/// A mode, in pixels and bytes of the interleaved memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    pub pixels: Pixels,
    pub width: u32,
    pub height: u32,
    /// First byte.
    pub start: usize,
    /// Bytes from a row to the next.
    pub pitch: usize,
    /// Pairs of rows share an address but for this bit, which is that of the row (CGA).
    pub row_bit: Option<u32>,
    /// From this row on, memory starts at 0 again.
    pub split: u32,
    /// Nothing but black.
    pub blank: bool,
    /// Addresses wrap at the VGA's 256 KiB, not at the end of video memory.
    pub small: bool,
}

impl Mode {
    pub fn of(registers: &Registers, dispi: &Dispi) -> Mode {
        if dispi.enabled() && dispi.width > 0 && dispi.height > 0 {
            return linear(dispi);
        }
        let crtc = &registers.crtc;
        let overflow = u32::from(crtc[crtc::OVERFLOW]);
        let scan_lines = (u32::from(crtc[crtc::VERTICAL_END]) | (overflow & 2) << 7 | (overflow & 0x40) << 3) + 1;
        let max_scan = u32::from(crtc[crtc::MAX_SCAN_LINE]);
        let compare = u32::from(crtc[crtc::LINE_COMPARE]) | (overflow & 0x10) << 4 | (max_scan & 0x40) << 3;
        let double = 1 + (max_scan >> 7);
        let cell = (max_scan & 0x1f) + 1;
        let characters = u32::from(crtc[crtc::HORIZONTAL_END]) + 1;
        let start = usize::from(crtc[crtc::START_HIGH]) << 8 | usize::from(crtc[crtc::START_LOW]);
        let blank = registers.attribute_index & attribute::SCREEN_ON == 0 || registers.seq[seq::CLOCKING] & 0x20 != 0;
        let mut mode = Mode {
            pixels: Pixels::Planar,
            width: characters * 8,
            height: scan_lines,
            start: start * 4,
            pitch: usize::from(crtc[crtc::OFFSET]) * 8,
            row_bit: None,
            split: compare.saturating_add(1),
            blank,
            small: true,
        };
        if registers.gc[gc::MISC] & 1 == 0 {
            let cell_width = if registers.seq[seq::CLOCKING] & 1 != 0 { 8 } else { 9 };
            let cell_height = cell * double;
            mode.width = characters * cell_width;
            mode.height = (scan_lines / cell_height).max(1) * cell_height;
            mode.pixels = Pixels::Text { cell_width, cell_height };
            return mode;
        }
        let byte_mode = crtc[crtc::MODE] >> 6 & 1;
        // Bit 13 of the address in a plane; in word mode that is counted from one bit below.
        mode.row_bit = (crtc[crtc::MODE] & 1 == 0).then_some(14 + u32::from(byte_mode));
        let repeat = if mode.row_bit.is_some() { double } else { cell * double };
        mode.height = (scan_lines / repeat).max(1);
        mode.split /= repeat;
        match registers.gc[gc::MODE] >> 5 & 3 {
            0 => {}
            1 => mode.pixels = Pixels::Packed,
            _ => {
                mode.pixels = Pixels::Palette;
                mode.width = characters * 4;
            }
        }
        mode
    }
}

fn linear(dispi: &Dispi) -> Mode {
    let pixels = match dispi.depth {
        4 => Pixels::Planar,
        8 => Pixels::Palette,
        depth => Pixels::Direct(depth),
    };
    Mode {
        pixels,
        width: dispi.width.into(),
        height: dispi.height.into(),
        start: dispi.start() as usize,
        pitch: dispi.pitch() as usize,
        row_bit: None,
        split: u32::MAX,
        blank: false,
        small: false,
    }
}
