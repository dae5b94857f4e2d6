//! Video memory: the linear view, the window with its write modes and latches, and which pages were written.

use crate::registers::{Registers, gc, seq};

/// Bytes of video memory: a power of two.
pub(crate) const SIZE: usize = 16 << 20;
/// Unit of what was written.
pub(crate) const PAGE: usize = 4096;
const PAGES: usize = SIZE / PAGE;
/// Bytes that the window and the CRT controller reach.
pub(crate) const VGA_SIZE: usize = 256 << 10;

pub(crate) struct VideoMemory {
    pub bytes: Vec<u8>,
    /// A bit per page: written since it was last asked for.
    written: [u64; PAGES / 64],
    /// Pages that were written before that. Others are zero, and reading them would make the host find memory for them.
    touched: [u64; PAGES / 64],
    /// The four planes of the last byte that was read.
    pub latch: u32,
}

/// Where an access through the window goes.
#[derive(Clone, Copy)]
enum Place {
    /// A byte of the interleaved memory: chained modes and linear ones.
    Byte(usize),
    /// Odd and even addresses are two planes: text modes.
    OddEven(usize),
    /// A byte of all planes.
    Planes(usize),
}

impl VideoMemory {
    pub fn new() -> VideoMemory {
        // Zeroed by the kernel when touched: a VM without graphics pays nothing.
        VideoMemory { bytes: vec![0; SIZE], written: [0; PAGES / 64], touched: [0; PAGES / 64], latch: 0 }
    }

    fn mark(&mut self, at: usize) {
        let page = at / PAGE;
        self.written[page / 64] |= 1 << (page % 64);
    }

    /// Pages written since the last call, ascending.
    pub fn take_written(&mut self) -> impl Iterator<Item = usize> + use<> {
        let written = std::mem::replace(&mut self.written, [0; PAGES / 64]);
        self.touched.iter_mut().zip(written).for_each(|(touched, written)| *touched |= written);
        (0..PAGES).filter(move |page| written[page / 64] >> (page % 64) & 1 != 0)
    }

    pub fn read_linear(&self, offset: u64, data: &mut [u8]) {
        let at = (offset as usize).min(SIZE);
        let len = data.len().min(SIZE - at);
        data[..len].copy_from_slice(&self.bytes[at..at + len]);
        data[len..].fill(0xff);
    }

    pub fn write_linear(&mut self, offset: u64, data: &[u8]) {
        let at = (offset as usize).min(SIZE);
        let len = data.len().min(SIZE - at);
        if len == 0 {
            return;
        }
        self.bytes[at..at + len].copy_from_slice(&data[..len]);
        for page in at / PAGE..=(at + len - 1) / PAGE {
            self.written[page / 64] |= 1 << (page % 64);
        }
    }

    /// Number and bytes of the pages that may hold something else than zeros.
    pub fn pages(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let used = move |page: &usize| (self.touched[page / 64] | self.written[page / 64]) >> (page % 64) & 1 != 0;
        (0..PAGES).filter(used).map(|page| (page, &self.bytes[page * PAGE..(page + 1) * PAGE]))
    }

    /// Clears the first `len` bytes.
    pub fn clear(&mut self, len: usize) {
        let len = len.min(SIZE);
        let pages: Vec<usize> = self.pages().map(|(page, _)| page).take_while(|page| page * PAGE < len).collect();
        for page in pages {
            self.bytes[page * PAGE..len.min((page + 1) * PAGE)].fill(0);
        }
    }

    /// A read of the window at `offset` from A0000h. `bank`: the linear place of the window, when a linear mode is on.
    pub fn read_window(&mut self, registers: &Registers, bank: Option<usize>, offset: u32) -> u8 {
        match place(registers, bank, offset) {
            None => 0xff,
            Some(Place::Byte(at)) => self.bytes[at],
            Some(Place::OddEven(at)) => {
                let plane = usize::from(registers.gc[gc::READ_MAP] & 2) | at & 1;
                self.bytes[((at & !1) << 1 | plane) % VGA_SIZE]
            }
            Some(Place::Planes(at)) => {
                self.latch = self.planes(at);
                if registers.gc[gc::MODE] & 0x08 == 0 {
                    return (self.latch >> (8 * (registers.gc[gc::READ_MAP] & 3))) as u8;
                }
                let wanted = spread(registers.gc[gc::COLOR_COMPARE]);
                let differ = (self.latch ^ wanted) & spread(registers.gc[gc::COLOR_DO_NOT_CARE]);
                let differ = differ | differ >> 16;
                !(differ | differ >> 8) as u8
            }
        }
    }

    pub fn write_window(&mut self, registers: &Registers, bank: Option<usize>, offset: u32, value: u8) {
        let map = registers.seq[seq::MAP_MASK];
        match place(registers, bank, offset) {
            None => {}
            // The linear modes have all planes, whatever was left in the map mask.
            Some(Place::Byte(at)) if bank.is_some() || map >> (at & 3) & 1 != 0 => {
                self.bytes[at] = value;
                self.mark(at);
            }
            Some(Place::Byte(_)) => {}
            Some(Place::OddEven(at)) => {
                // Planes 0 and 2 are even, 1 and 3 odd.
                for plane in [at & 1, at & 1 | 2] {
                    if map >> plane & 1 != 0 {
                        let at = ((at & !1) << 1 | plane) % VGA_SIZE;
                        self.bytes[at] = value;
                        self.mark(at);
                    }
                }
            }
            Some(Place::Planes(at)) => {
                let mask = spread(map);
                let word = self.planes(at) & !mask | self.compose(registers, value) & mask;
                self.bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
                self.mark(at);
            }
        }
    }

    fn planes(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]])
    }

    /// What the write modes make of a byte for the four planes.
    fn compose(&self, registers: &Registers, value: u8) -> u32 {
        let gc = &registers.gc;
        let rotated = value.rotate_right(u32::from(gc[gc::ROTATE] & 7));
        let set_reset = spread(gc[gc::SET_RESET]);
        let (word, bits) = match gc[gc::MODE] & 3 {
            0 => {
                let set = spread(gc[gc::ENABLE_SET_RESET]);
                ((u32::from(rotated) * 0x0101_0101) & !set | set_reset & set, gc[gc::BIT_MASK])
            }
            1 => return self.latch,
            2 => (spread(value), gc[gc::BIT_MASK]),
            _ => (set_reset, gc[gc::BIT_MASK] & rotated),
        };
        let word = match gc[gc::ROTATE] >> 3 & 3 {
            0 => word,
            1 => word & self.latch,
            2 => word | self.latch,
            _ => word ^ self.latch,
        };
        let bits = u32::from(bits) * 0x0101_0101;
        word & bits | self.latch & !bits
    }
}

/// A byte of ones for each plane whose bit is set.
fn spread(planes: u8) -> u32 {
    (0..4).fold(0, |word, plane| word | if planes >> plane & 1 != 0 { 0xff << (8 * plane) } else { 0 })
}

fn place(registers: &Registers, bank: Option<usize>, offset: u32) -> Option<Place> {
    let (base, len) = match registers.gc[gc::MISC] >> 2 & 3 {
        _ if bank.is_some() => (0, 0x1_0000),
        0 => (0, 0x2_0000),
        1 => (0, 0x1_0000),
        2 => (0x1_0000, 0x8000),
        _ => (0x1_8000, 0x8000),
    };
    let at = offset.checked_sub(base).filter(|at| *at < len)? as usize;
    if let Some(bank) = bank {
        return Some(Place::Byte((bank + at) % SIZE));
    }
    if registers.misc & 2 == 0 {
        return None;
    }
    let mode = registers.seq[seq::MEMORY_MODE];
    Some(if mode & 0x08 != 0 {
        Place::Byte(at % VGA_SIZE)
    } else if mode & 0x04 == 0 {
        Place::OddEven(at)
    } else {
        Place::Planes(at * 4 % VGA_SIZE)
    })
}
