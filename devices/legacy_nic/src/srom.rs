//! The serial ROM: 64 words that a driver reads bit by bit (Microchip 93C46), and what stands in it (Digital Semiconductor
//! 21X4 Serial ROM Format, version 3).

use crate::regs::serial::{ROM_CLOCK, ROM_IN, ROM_OUT, ROM_SELECT};
use minicbor::{Decode, Encode};

/// Start bit, opcode and address of "read".
const READ: u16 = 0b110 << 6;
/// Bits of a command, with the start bit.
const COMMAND_BITS: u8 = 9;

/// Words of the ROM.
pub(crate) struct Contents([u16; 64]);

impl Contents {
    /// The ROM of an adapter with this address and subsystem (vendor, device): one MII transceiver with 10 and 100 Mbit/s.
    pub fn new(address: [u8; 6], subsystem: (u16, u16)) -> Contents {
        let mut bytes = [0u8; 128];
        bytes[0..2].copy_from_slice(&subsystem.0.to_le_bytes());
        bytes[2..4].copy_from_slice(&subsystem.1.to_le_bytes());
        // Format 3, one controller.
        bytes[18..20].copy_from_slice(&[3, 1]);
        bytes[20..26].copy_from_slice(&address);
        // Device number, then where its leaf is.
        bytes[26..29].copy_from_slice(&[0, 30, 0]);
        // Auto-sensing; no output pins; one block: MII (type 1), no pin sequences, 10/100 half and full duplex.
        let leaf =
            [0x00, 0x08, 0x00, 0x01, 0x8c, 0x01, 0x00, 0x00, 0x00, 0x00, 0x78, 0xe1, 0x01, 0x00, 0x50, 0x00, 0x18];
        bytes[30..30 + leaf.len()].copy_from_slice(&leaf);
        let checksum = crc32fast::hash(&bytes[..126]) as u16;
        bytes[126..].copy_from_slice(&checksum.to_le_bytes());
        let mut words = [0; 64];
        for (word, pair) in words.iter_mut().zip(bytes.chunks_exact(2)) {
            *word = u16::from_le_bytes([pair[0], pair[1]]);
        }
        Contents(words)
    }

    fn bit(&self, address: u8, bit: u8) -> bool {
        self.0[usize::from(address & 63)] >> (15 - bit) & 1 != 0
    }
}

/// The serial interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SerialRom {
    #[n(0)]
    clock: bool,
    /// Bits of the command so far, from the start bit on.
    #[n(1)]
    command: u16,
    #[n(2)]
    bits: u8,
    /// While reading: address of the word, and the bit that is next; 16 is the zero before the first.
    #[n(3)]
    reading: Option<(u8, u8)>,
    /// Level of the output.
    #[n(4)]
    out: bool,
}

impl SerialRom {
    pub fn new() -> SerialRom {
        SerialRom { clock: false, command: 0, bits: 0, reading: None, out: true }
    }

    /// The output, as a bit of CSR9.
    pub fn output(&self) -> u32 {
        if self.out { ROM_OUT } else { 0 }
    }

    /// A write of CSR9 with the ROM selected there.
    pub fn write(&mut self, value: u32, contents: &Contents) {
        if value & ROM_SELECT == 0 {
            return *self = SerialRom::new();
        }
        let clock = value & ROM_CLOCK != 0;
        if clock && !self.clock {
            self.rising(value & ROM_IN != 0, contents);
        }
        self.clock = clock;
    }

    fn rising(&mut self, bit: bool, contents: &Contents) {
        if let Some((address, next)) = self.reading {
            self.out = contents.bit(address, next);
            self.reading = Some(if next >= 15 { (address.wrapping_add(1) & 63, 0) } else { (address, next + 1) });
            return;
        }
        if self.bits == 0 && !bit {
            // Waiting for the start bit.
            return;
        }
        self.command = self.command << 1 | u16::from(bit);
        self.bits += 1;
        if self.bits == COMMAND_BITS {
            if self.command & !63 == READ {
                self.reading = Some(((self.command & 63) as u8, 0));
                self.out = false;
            }
            // Writing and erasing are refused, as by a ROM whose protection is on.
            (self.command, self.bits) = (0, 0);
        }
    }

    /// A state that a ROM can be in, from a file that may say anything.
    pub fn checked(self) -> Option<SerialRom> {
        let reading = self.reading.is_none_or(|(address, next)| address < 64 && next < 16);
        (reading && self.bits < COMMAND_BITS).then_some(self)
    }
}
