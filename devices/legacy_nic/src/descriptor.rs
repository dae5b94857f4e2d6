//! Descriptors in guest memory, and where the next one is (manual, 4.2).

use crate::regs::{rdes, tdes};
use bulkhead_guest_memory::{AccessError, GuestMemory};

/// A descriptor as it was read once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub at: u32,
    pub words: [u32; 4],
}

impl Descriptor {
    pub fn read(memory: &GuestMemory, at: u32) -> Result<Descriptor, AccessError> {
        let bytes: [u8; 16] = memory.read_array(at.into())?;
        let word = |index: usize| u32::from_le_bytes(std::array::from_fn(|byte| bytes[index * 4 + byte]));
        Ok(Descriptor { at, words: std::array::from_fn(word) })
    }

    /// The chip owns it.
    pub fn owned(&self) -> bool {
        self.words[0] & tdes::OWN != 0
    }

    /// Writes word 0 and so, without its top bit, gives the descriptor back.
    pub fn finish(&self, memory: &GuestMemory, status: u32) -> Result<(), AccessError> {
        memory.write_u32(self.at.into(), status & !tdes::OWN)
    }

    /// Address and length of the one or two buffers. In a chain the second address is that of the next descriptor.
    pub fn buffers(&self) -> impl Iterator<Item = (u32, usize)> {
        let (first, second) = (self.words[1] & 0x7ff, self.words[1] >> 11 & 0x7ff);
        let second = if self.words[1] & tdes::CHAINED != 0 { 0 } else { second };
        [(self.words[2], first as usize), (self.words[3], second as usize)].into_iter()
    }

    /// Where the next descriptor is, in a list that begins at `base`.
    pub fn next(&self, base: u32, bus_mode: u32) -> u32 {
        // The bits have the same places in both kinds of descriptors.
        const { assert!(tdes::END_OF_RING == rdes::END_OF_RING && tdes::CHAINED == rdes::CHAINED) };
        if self.words[1] & tdes::END_OF_RING != 0 {
            base
        } else if self.words[1] & tdes::CHAINED != 0 {
            self.words[3] & !3
        } else {
            let skip = bus_mode >> 2 & 0x1f;
            self.at.wrapping_add(16 + skip * 4)
        }
    }
}
