//! From video memory to pixels.

use crate::Picture;
use crate::code_page::character;
use crate::memory::{SIZE, VGA_SIZE, VideoMemory};
use crate::mode::{Mode, Pixels};
use crate::registers::{Registers, attribute, crtc, seq};

/// One view of the screen.
pub(crate) struct Renderer<'a> {
    pub registers: &'a Registers,
    pub memory: &'a VideoMemory,
    pub mode: Mode,
}

impl Renderer<'_> {
    /// Draws the whole screen; the picture's memory is used again.
    pub fn draw(&self, picture: &mut Picture) {
        let mode = &self.mode;
        let row_bytes = mode.width as usize * 3;
        (picture.width, picture.height) = (mode.width, mode.height);
        picture.rgb.clear();
        picture.rgb.resize(row_bytes * mode.height as usize, 0);
        if mode.blank {
            return;
        }
        if let Pixels::Text { cell_width, cell_height } = mode.pixels {
            return self.draw_text(cell_width as usize, cell_height as usize, &mut picture.rgb);
        }
        let colors = self.registers.sixteen_colors();
        for (y, row) in (0..).zip(picture.rgb.chunks_exact_mut(row_bytes)) {
            let at = self.row(y);
            match mode.pixels {
                Pixels::Planar => self.draw_planar(at, &colors, row),
                Pixels::Packed => self.draw_packed(at, &colors, row),
                Pixels::Palette => self.draw_palette(at, row),
                Pixels::Direct(depth) => self.draw_direct(at, depth, row),
                Pixels::Text { .. } => {}
            }
        }
    }

    /// Address of a row of pixels.
    fn row(&self, y: u32) -> usize {
        let mode = &self.mode;
        let (start, y) = if y >= mode.split { (0, y - mode.split) } else { (mode.start, y) };
        if let Some(bit) = mode.row_bit {
            let at = start + y as usize / 2 * mode.pitch;
            return at & !(1 << bit) | (y as usize & 1) << bit;
        }
        start + y as usize * mode.pitch
    }

    fn byte(&self, at: usize) -> u8 {
        self.memory.bytes[if self.mode.small { at % VGA_SIZE } else { at % SIZE }]
    }

    fn draw_planar(&self, at: usize, colors: &[[u8; 3]; 16], row: &mut [u8]) {
        let enabled = self.registers.attribute[attribute::PLANE_ENABLE] & 0x0f;
        for (x, group) in row.chunks_mut(24).enumerate() {
            let planes: [u8; 4] = std::array::from_fn(|plane| self.byte(at + x * 4 + plane));
            for (bit, pixel) in group.chunks_exact_mut(3).enumerate() {
                let index = (0..4).fold(0, |index, plane| index | (planes[plane] >> (7 - bit) & 1) << plane);
                pixel.copy_from_slice(&colors[usize::from(index & enabled)]);
            }
        }
    }

    /// Four pixels to a byte: even bytes in plane 0, odd ones in plane 1.
    fn draw_packed(&self, at: usize, colors: &[[u8; 3]; 16], row: &mut [u8]) {
        for (x, group) in row.chunks_mut(12).enumerate() {
            let value = self.byte(at + x / 2 * 4 + x % 2);
            for (pair, pixel) in group.chunks_exact_mut(3).enumerate() {
                pixel.copy_from_slice(&colors[usize::from(value >> (6 - 2 * pair) & 3)]);
            }
        }
    }

    fn draw_palette(&self, at: usize, row: &mut [u8]) {
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            pixel.copy_from_slice(&self.registers.color(self.byte(at + x)));
        }
    }

    fn draw_direct(&self, at: usize, depth: u16, row: &mut [u8]) {
        let step = usize::from(depth).div_ceil(8);
        let wide = |value: u16, bits: u32| (u32::from(value) * 255 / ((1 << bits) - 1)) as u8;
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let at = at + x * step;
            let low = u16::from_le_bytes([self.byte(at), self.byte(at + 1)]);
            let color = match depth {
                15 => [wide(low >> 10 & 0x1f, 5), wide(low >> 5 & 0x1f, 5), wide(low & 0x1f, 5)],
                16 => [wide(low >> 11, 5), wide(low >> 5 & 0x3f, 6), wide(low & 0x1f, 5)],
                _ => [self.byte(at + 2), (low >> 8) as u8, low as u8],
            };
            pixel.copy_from_slice(&color);
        }
    }

    /// Address of a cell: character in plane 0, attribute in plane 1.
    fn cell(&self, line: u32, column: u32) -> usize {
        self.mode.start + line as usize * self.mode.pitch + column as usize * 4
    }

    fn cells(&self, cell_width: usize, cell_height: usize) -> (u32, u32) {
        (self.mode.width / cell_width as u32, self.mode.height / cell_height as u32)
    }

    fn draw_text(&self, cell_width: usize, cell_height: usize, rgb: &mut [u8]) {
        let colors = self.registers.sixteen_colors();
        let (columns, lines) = self.cells(cell_width, cell_height);
        let row_bytes = self.mode.width as usize * 3;
        let blinks = self.registers.attribute[attribute::MODE] & 0x08 != 0;
        let cursor = self.cursor(cell_height);
        for line in 0..lines {
            for column in 0..columns {
                let at = self.cell(line, column);
                let (code, look) = (self.byte(at), self.byte(at + 1));
                let front = colors[usize::from(look & 0x0f)];
                // What would blink is shown.
                let back = colors[usize::from(look >> 4 & if blinks { 7 } else { 15 })];
                let font = self.font(look & 8 != 0) + usize::from(code) * 32;
                for scan in 0..cell_height {
                    let mut bits = u16::from(self.byte((font + scan.min(31)) * 4 + 2)) << 1;
                    if self.joins(code) {
                        bits |= bits >> 1 & 1;
                    }
                    if cursor.as_ref().is_some_and(|(place, scans)| *place == at && scans.contains(&scan)) {
                        bits = 0x1ff;
                    }
                    let start = (line as usize * cell_height + scan) * row_bytes + column as usize * cell_width * 3;
                    for (x, pixel) in rgb[start..start + cell_width * 3].chunks_exact_mut(3).enumerate() {
                        pixel.copy_from_slice(if bits >> (8 - x) & 1 != 0 { &front } else { &back });
                    }
                }
            }
        }
    }

    /// Whether the ninth column repeats the eighth: the line drawing characters.
    fn joins(&self, code: u8) -> bool {
        self.registers.attribute[attribute::MODE] & 0x04 != 0 && (0xc0..0xe0).contains(&code)
    }

    /// First byte of a font in plane 2: characters whose attribute has bit 3 may have another one.
    fn font(&self, bright: bool) -> usize {
        let select = usize::from(self.registers.seq[seq::CHARACTER_MAP]);
        let map = match bright {
            true => select >> 2 & 3 | select >> 3 & 4,
            false => select & 3 | select >> 2 & 4,
        };
        // 0, 16, 32, 48, 8, 24, 40, 56 KiB.
        (map & 3) << 14 | (map >> 2) << 13
    }

    /// The cell of the cursor and its scan lines.
    fn cursor(&self, cell_height: usize) -> Option<(usize, std::ops::RangeInclusive<usize>)> {
        let crtc = &self.registers.crtc;
        let (start, end) = (crtc[crtc::CURSOR_START], crtc[crtc::CURSOR_END] & 0x1f);
        if start & 0x20 != 0 {
            return None;
        }
        let place = usize::from(crtc[crtc::CURSOR_HIGH]) << 8 | usize::from(crtc[crtc::CURSOR_LOW]);
        let scans = usize::from(start & 0x1f)..=usize::from(end).min(cell_height - 1);
        Some((place * 4, scans))
    }

    /// The lines of a text mode.
    pub fn text(&self) -> Option<Vec<String>> {
        let Pixels::Text { cell_width, cell_height } = self.mode.pixels else { return None };
        let (columns, lines) = self.cells(cell_width as usize, cell_height as usize);
        let line = |line| {
            let text: String = (0..columns).map(|column| character(self.byte(self.cell(line, column)))).collect();
            text.trim_end().to_owned()
        };
        Some((0..lines).map(line).collect())
    }
}
