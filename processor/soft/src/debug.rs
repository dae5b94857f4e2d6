//! Debug registers: instruction and data breakpoints, single step (SDM vol. 3, chapter 18).

use crate::cpu::{Cpu, Exception, rflags, vector};

/// DR6 bits.
pub(crate) mod dr6 {
    pub const BD: u64 = 1 << 13;
    pub const BS: u64 = 1 << 14;
    pub const FIXED: u64 = 0xffff_0ff0;
}

impl Cpu {
    /// (address, type, length) of breakpoint `index` if DR7 enables it. Types: 0 execute, 1 write, 2 port, 3 access.
    fn breakpoint(&self, index: usize) -> Option<(u64, u64, u64)> {
        let dr7 = self.dr[5];
        if dr7 >> (2 * index) & 3 == 0 {
            return None;
        }
        let control = dr7 >> (16 + 4 * index);
        let len = [1, 2, 8, 4][(control >> 2 & 3) as usize];
        Some((self.dr[index] & !(len - 1), control & 3, len))
    }

    /// Whether loads or stores must be compared with debug registers.
    pub(crate) fn has_data_breakpoints(&self) -> bool {
        self.dr[5] & 0xff != 0 && (0..4).any(|index| self.breakpoint(index).is_some_and(|(_, kind, _)| kind & 1 != 0))
    }

    /// Whether blocks must be run one instruction at a time.
    pub(crate) fn is_traced(&self) -> bool {
        self.system_flags & rflags::TF != 0 || self.dr[5] & 0xff != 0
    }

    /// Notes data breakpoints that an access of `size` bytes meets; they are reported behind the instruction.
    pub(crate) fn match_data_breakpoints(&mut self, linear: u64, size: u64, write: bool) {
        for index in 0..4 {
            let Some((address, kind, len)) = self.breakpoint(index) else { continue };
            let watched = kind == 3 || kind == 1 && write;
            let overlaps = linear.wrapping_sub(address) < len || address.wrapping_sub(linear) < size;
            if watched && overlaps {
                self.breakpoints_met |= 1 << index;
            }
        }
    }

    /// The breakpoint fault of the instruction at the current RIP.
    pub(crate) fn instruction_breakpoint(&self) -> Option<Exception> {
        if self.dr[5] & 0xff == 0 || self.system_flags & rflags::RF != 0 {
            return None;
        }
        let linear = if self.is_long64() { self.rip() } else { self.segments[1].base.wrapping_add(self.rip()) };
        let met: u64 = (0..4)
            .filter(|&index| self.breakpoint(index).is_some_and(|(address, kind, _)| kind == 0 && address == linear))
            .map(|index| 1 << index)
            .sum();
        (met != 0).then_some(Exception { vector: vector::DB, error_code: None, payload: met })
    }

    /// The trap behind an instruction that began with `traced` single step, if any.
    pub(crate) fn trap_after(&mut self, single_step: bool) -> Option<Exception> {
        let met = std::mem::take(&mut self.breakpoints_met) | if single_step { dr6::BS } else { 0 };
        (met != 0).then_some(Exception { vector: vector::DB, error_code: None, payload: met })
    }
}
