//! Command blocks: fields are big-endian, missing bytes read as zeros.

/// A command block of up to 16 bytes.
#[derive(Clone, Copy)]
pub(crate) struct Cdb([u8; 16]);

impl Cdb {
    /// Longer ones are cut: no command that is known here has more.
    pub fn new(bytes: &[u8]) -> Cdb {
        let mut cdb = [0; 16];
        let len = bytes.len().min(16);
        cdb[..len].copy_from_slice(&bytes[..len]);
        Cdb(cdb)
    }

    pub fn opcode(&self) -> u8 {
        self.0[0]
    }

    pub fn u8(&self, at: usize) -> u8 {
        self.0[at]
    }

    pub fn bit(&self, at: usize, bit: u8) -> bool {
        self.0[at] >> bit & 1 != 0
    }

    pub fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    pub fn u24(&self, at: usize) -> u32 {
        u32::from(self.0[at]) << 16 | u32::from(self.u16(at + 1))
    }

    pub fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) << 16 | u32::from(self.u16(at + 2))
    }

    pub fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }

    /// Block address and count of the READ and WRITE families, whose form is in the upper bits of the opcode.
    pub fn blocks(&self) -> (u64, u64) {
        match self.0[0] >> 5 {
            0 => {
                // In the six-byte form 0 means 256.
                let count = if self.0[4] == 0 { 256 } else { u64::from(self.0[4]) };
                (u64::from(self.u24(1) & 0x1f_ffff), count)
            }
            4 => (self.u64(2), u64::from(self.u32(10))),
            5 => (u64::from(self.u32(2)), u64::from(self.u32(6))),
            _ => (u64::from(self.u32(2)), u64::from(self.u16(7))),
        }
    }
}
