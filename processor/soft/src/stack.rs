//! Stacks that far transfers and interrupts push to before anything is committed.

use crate::cpu::{Cpu, Mode, SegmentRegister, vector};
use crate::memory::Full;
use crate::op::Fault;
use crate::segment::SS;
use bulkhead_engine::Segment;

/// A stack being pushed to; the registers change only with [`StackFrame::commit`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct StackFrame {
    ss: SegmentRegister,
    sp: u64,
    cpl: u8,
    long: bool,
    /// Error code of #SS.
    code: u32,
}

impl StackFrame {
    /// The current stack.
    pub fn current(cpu: &Cpu) -> Self {
        Self { ss: cpu.segments[SS], sp: cpu.regs[4], cpl: cpu.cpl, long: cpu.is_long64(), code: 0 }
    }

    /// A stack of another privilege level. `long`: the code that will use it is 64-bit code.
    pub fn new(ss: SegmentRegister, sp: u64, cpl: u8, long: bool) -> Self {
        Self { ss, sp, cpl, long, code: u32::from(ss.selector & !3) }
    }

    /// Aligns the pointer to 16 bytes, as interrupts in long mode do.
    pub fn align(&mut self) {
        self.sp &= !15;
    }

    fn mask(&self) -> u64 {
        if self.long {
            u64::MAX
        } else if self.ss.attributes & Segment::BIG != 0 {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// Pushes `size` bytes (2, 4, 8).
    pub fn push(&mut self, cpu: &mut Cpu, size: u32, value: u64) -> Result<(), Fault> {
        let mask = self.mask();
        let offset = self.sp.wrapping_sub(u64::from(size)) & mask;
        let linear = if self.long {
            offset
        } else {
            let last = offset + u64::from(size) - 1;
            if !self.ss.writable || offset < u64::from(self.ss.low) || last > u64::from(self.ss.high) {
                return Err(cpu.raise_code(vector::SS, self.code));
            }
            self.ss.base.wrapping_add(offset) & 0xffff_ffff
        };
        cpu.store_stack(linear, size, value, self.cpl)?;
        self.sp = self.sp & !mask | offset;
        Ok(())
    }

    /// Makes it the stack of the processor. The caller sets the CPL.
    pub fn commit(self, cpu: &mut Cpu) {
        cpu.segments[SS] = self.ss;
        cpu.regs[4] = if self.mask() == 0xffff_ffff { self.sp & 0xffff_ffff } else { self.sp };
    }
}

impl Cpu {
    /// Reads element `index` above the stack pointer, without popping.
    pub(crate) fn peek(&mut self, size: u32, index: u64) -> Result<u64, Fault> {
        self.peek_at(size, index * u64::from(size))
    }

    /// Reads `size` bytes at `distance` above the stack pointer.
    pub(crate) fn peek_at(&mut self, size: u32, distance: u64) -> Result<u64, Fault> {
        let offset = self.regs[4].wrapping_add(distance) & self.stack_mask();
        match size {
            2 => self.read_at::<u16, Full>(SS as u8, offset).map(u64::from),
            4 => self.read_at::<u32, Full>(SS as u8, offset).map(u64::from),
            _ => self.read_at::<u64, Full>(SS as u8, offset),
        }
    }

    /// Pops `bytes` bytes for good.
    pub(crate) fn drop_stack(&mut self, bytes: u64) {
        let mask = self.stack_mask();
        let sp = self.regs[4].wrapping_add(bytes);
        self.set_stack_pointer(sp, mask);
    }

    /// Sets the stack pointer within the stack's width.
    pub(crate) fn set_stack_pointer(&mut self, sp: u64, mask: u64) {
        self.regs[4] = match mask {
            u64::MAX => sp,
            0xffff_ffff => sp & mask,
            _ => self.regs[4] & !mask | sp & mask,
        };
    }

    /// Bits of the stack pointer that count.
    pub(crate) fn stack_mask(&self) -> u64 {
        if self.mode.has(Mode::LONG64) {
            u64::MAX
        } else if self.segments[SS].attributes & Segment::BIG != 0 {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// Stack of privilege level `cpl` as the TSS names it.
    pub(crate) fn tss_stack(&mut self, cpl: u8, long_target: bool) -> Result<StackFrame, Fault> {
        let code = u32::from(self.tr.selector & !3);
        let (base, limit, kind) = (self.tr.base, u64::from(self.tr.limit), self.tr.attributes & 15);
        let level = u64::from(cpl);
        if self.is_lma() {
            let offset = 4 + 8 * level;
            if offset + 7 > limit {
                return Err(self.raise_code(vector::TS, code));
            }
            let sp = self.load_system(base.wrapping_add(offset), 8)?;
            return self.long_stack(sp, cpl);
        }
        let wide = kind & 8 != 0;
        let (offset, size) = if wide { (4 + 8 * level, 4) } else { (2 + 4 * level, 2) };
        if offset + u64::from(size) + 1 > limit {
            return Err(self.raise_code(vector::TS, code));
        }
        let sp = self.load_system(base.wrapping_add(offset), size)?;
        let selector = self.load_system(base.wrapping_add(offset + u64::from(size)), 2)? as u16;
        if selector & !3 == 0 {
            return Err(self.raise_code(vector::TS, 0));
        }
        let ss = self.check_stack_for(selector, cpl, vector::TS, vector::SS)?;
        Ok(StackFrame::new(ss, sp, cpl, long_target))
    }

    /// A stack of long mode: a null selector with the level as RPL.
    pub(crate) fn long_stack(&mut self, sp: u64, cpl: u8) -> Result<StackFrame, Fault> {
        if !crate::mmu::is_canonical(sp) {
            return Err(self.raise_code(vector::SS, 0));
        }
        let ss = self.null_stack(u16::from(cpl));
        Ok(StackFrame::new(ss, sp, cpl, true))
    }

    /// Entry `index` (1–7) of the interrupt stack table.
    pub(crate) fn interrupt_stack(&mut self, index: u8) -> Result<u64, Fault> {
        let offset = 0x1c + 8 * u64::from(index);
        if offset + 7 > u64::from(self.tr.limit) {
            let code = u32::from(self.tr.selector & !3);
            return Err(self.raise_code(vector::TS, code));
        }
        self.load_system(self.tr.base.wrapping_add(offset), 8)
    }
}
