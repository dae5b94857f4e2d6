//! Loads, stores and atomics of guest code: segment, TLB, host memory.
//!
//! The hit path is inlined into every handler; everything else is in `mmu/`, cold.

use crate::cpu::{Cpu, Mode, vector};
use crate::int::Int;
use crate::op::{Fault, Op};

/// Entries of a TLB.
pub(crate) const TLB_ENTRIES: usize = 1024;
const PAGE_MASK: u64 = !0xfff;

/// One TLB entry. A tag is the linear address of the page, or [`TlbEntry::NEVER`].
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct TlbEntry {
    /// Page that may be read here.
    pub read: u64,
    /// Page that may be written here without telling anybody.
    pub write: u64,
    /// Page that may be executed here.
    pub execute: u64,
    /// Host address minus linear address.
    pub addend: u64,
}

impl TlbEntry {
    /// Equals no page address.
    pub const NEVER: u64 = 1;
    /// Hits nothing.
    pub const EMPTY: Self = Self { read: Self::NEVER, write: Self::NEVER, execute: Self::NEVER, addend: 0 };

    /// Where a linear address is looked up. Kernel and user halves with equal low bits do not evict each other.
    #[inline(always)]
    pub fn index(linear: u64) -> usize {
        ((linear >> 12) ^ (linear >> 38)) as usize & (TLB_ENTRIES - 1)
    }
}

/// A way to turn an operand into a linear address; the decoder chooses it per block mode.
pub(crate) trait Address: 'static {
    /// Offset of the op's memory operand, cut to the address size.
    fn offset(cpu: &Cpu, op: &Op) -> u64;
    /// Linear address of `size` bytes at `offset` of segment `seg`, with segment checks.
    fn linear(cpu: &mut Cpu, seg: u8, offset: u64, size: u64, write: bool) -> Result<u64, Fault>;
    /// Cuts an address to the stack's width.
    fn cut_stack_pointer(cpu: &Cpu, value: u64) -> u64;
    /// The stack pointer, cut to the stack's width.
    #[inline(always)]
    fn stack_pointer(cpu: &Cpu) -> u64 {
        Self::cut_stack_pointer(cpu, cpu.regs[4])
    }
    /// Sets the stack pointer, keeping what the stack's width does not cover.
    fn set_stack_pointer(cpu: &mut Cpu, value: u64);
}

/// 64-bit mode, 64-bit address size, no FS or GS.
pub(crate) struct Flat;
/// 32-bit code with all segments flat (base 0, limit 4 GiB), 32-bit address size, no FS or GS, 32-bit stack.
pub(crate) struct Flat32;
/// Everything else.
pub(crate) struct Full;

#[inline(always)]
fn sum(cpu: &Cpu, op: &Op) -> u64 {
    let base = cpu.regs[usize::from(op.base & 31)];
    let index = cpu.regs[usize::from(op.index & 31)];
    base.wrapping_add(index << (op.scale & 3)).wrapping_add(op.disp as i64 as u64)
}

impl Address for Flat {
    #[inline(always)]
    fn offset(cpu: &Cpu, op: &Op) -> u64 {
        sum(cpu, op)
    }
    #[inline(always)]
    fn linear(_: &mut Cpu, _: u8, offset: u64, _: u64, _: bool) -> Result<u64, Fault> {
        Ok(offset)
    }
    #[inline(always)]
    fn cut_stack_pointer(_: &Cpu, value: u64) -> u64 {
        value
    }
    #[inline(always)]
    fn set_stack_pointer(cpu: &mut Cpu, value: u64) {
        cpu.regs[4] = value;
    }
}

impl Address for Flat32 {
    #[inline(always)]
    fn offset(cpu: &Cpu, op: &Op) -> u64 {
        sum(cpu, op) & 0xffff_ffff
    }
    #[inline(always)]
    fn linear(_: &mut Cpu, _: u8, offset: u64, _: u64, _: bool) -> Result<u64, Fault> {
        Ok(offset & 0xffff_ffff)
    }
    #[inline(always)]
    fn cut_stack_pointer(_: &Cpu, value: u64) -> u64 {
        value & 0xffff_ffff
    }
    #[inline(always)]
    fn set_stack_pointer(cpu: &mut Cpu, value: u64) {
        cpu.regs[4] = value & 0xffff_ffff;
    }
}

impl Address for Full {
    #[inline(always)]
    fn offset(cpu: &Cpu, op: &Op) -> u64 {
        // 2, 4, 8 bytes: keep 16, 32, 64 bits.
        sum(cpu, op) & (u64::MAX >> (64 - 8 * u32::from(op.address_size & 15)))
    }
    #[inline]
    fn linear(cpu: &mut Cpu, seg: u8, offset: u64, size: u64, write: bool) -> Result<u64, Fault> {
        let segment = &cpu.segments[usize::from(seg)];
        let linear = segment.base.wrapping_add(offset);
        if cpu.mode.has(Mode::LONG64) {
            return Ok(linear);
        }
        let last = offset + (size - 1);
        let allowed = if write { segment.writable } else { segment.readable };
        if allowed && offset >= u64::from(segment.low) && last <= u64::from(segment.high) {
            return Ok(linear & 0xffff_ffff);
        }
        Err(cpu.segment_violation(seg))
    }
    #[inline(always)]
    fn cut_stack_pointer(cpu: &Cpu, value: u64) -> u64 {
        let mask = if cpu.mode.has(Mode::LONG64) {
            u64::MAX
        } else if cpu.mode.has(Mode::STACK32) {
            0xffff_ffff
        } else {
            0xffff
        };
        value & mask
    }
    #[inline(always)]
    fn set_stack_pointer(cpu: &mut Cpu, value: u64) {
        if cpu.mode.has(Mode::LONG64) {
            cpu.regs[4] = value;
        } else if cpu.mode.has(Mode::STACK32) {
            cpu.regs[4] = value & 0xffff_ffff;
        } else {
            cpu.regs[4] = cpu.regs[4] & !0xffff | value & 0xffff;
        }
    }
}

impl Cpu {
    /// #SS for the stack segment, #GP for others.
    #[cold]
    pub fn segment_violation(&mut self, seg: u8) -> Fault {
        self.raise_code(if seg == 2 { vector::SS } else { vector::GP }, 0)
    }

    #[inline(always)]
    fn entry(&self, linear: u64) -> &TlbEntry {
        // SAFETY: `tlb` points to TLB_ENTRIES entries owned by this VP, and `index` is below that.
        unsafe { self.tlb.add(TlbEntry::index(linear)).as_ref() }
    }

    /// Host address for a read that lies in one page with a TLB hit.
    #[inline(always)]
    fn read_hit<T: Int>(&self, linear: u64) -> Option<*const u8> {
        let entry = self.entry(linear);
        // The last byte's page: a page-crossing access never equals the tag found through its first byte.
        let hit = linear.wrapping_add(T::SIZE - 1) & PAGE_MASK == entry.read;
        hit.then(|| linear.wrapping_add(entry.addend) as *const u8)
    }

    /// Host address for a write that lies in one page with a TLB hit.
    #[inline(always)]
    fn write_hit<T: Int>(&self, linear: u64) -> Option<*mut u8> {
        let entry = self.entry(linear);
        let hit = linear.wrapping_add(T::SIZE - 1) & PAGE_MASK == entry.write;
        hit.then(|| linear.wrapping_add(entry.addend) as *mut u8)
    }

    /// Loads from a linear address (segment `seg` only decides between #SS and #GP).
    #[inline(always)]
    pub fn load<T: Int>(&mut self, linear: u64, seg: u8) -> Result<T, Fault> {
        match self.read_hit::<T>(linear) {
            // SAFETY: a TLB hit means that the page is mapped RAM or ROM of the VM, for as long as the entry lives.
            Some(pointer) => Ok(unsafe { T::load(pointer) }),
            None => self.load_slow(linear, T::SIZE as u32, seg).map(T::from_u64),
        }
    }

    /// Stores to a linear address.
    #[inline(always)]
    pub fn store<T: Int>(&mut self, linear: u64, seg: u8, value: T) -> Result<(), Fault> {
        match self.write_hit::<T>(linear) {
            // SAFETY: a TLB write hit means that the page is mapped, writable RAM of the VM.
            Some(pointer) => unsafe { T::store(pointer, value) },
            None => return self.store_slow(linear, T::SIZE as u32, seg, value.to_u64()),
        }
        Ok(())
    }

    /// Reads the op's memory operand.
    #[inline(always)]
    pub fn read<T: Int, A: Address>(&mut self, op: &Op) -> Result<T, Fault> {
        let offset = A::offset(self, op);
        self.read_at::<T, A>(op.seg, offset)
    }

    /// Writes the op's memory operand.
    #[inline(always)]
    pub fn write<T: Int, A: Address>(&mut self, op: &Op, value: T) -> Result<(), Fault> {
        let offset = A::offset(self, op);
        self.write_at::<T, A>(op.seg, offset, value)
    }

    /// Reads at an offset of a segment.
    #[inline(always)]
    pub fn read_at<T: Int, A: Address>(&mut self, seg: u8, offset: u64) -> Result<T, Fault> {
        let linear = A::linear(self, seg, offset, T::SIZE, false)?;
        self.load(linear, seg)
    }

    /// Writes at an offset of a segment.
    #[inline(always)]
    pub fn write_at<T: Int, A: Address>(&mut self, seg: u8, offset: u64, value: T) -> Result<(), Fault> {
        let linear = A::linear(self, seg, offset, T::SIZE, true)?;
        self.store(linear, seg, value)
    }

    /// Read-modify-write of the op's memory operand, without LOCK. `change` runs once, only if nothing can fail any
    /// more: it may set flags and registers.
    #[inline(always)]
    pub fn update<T: Int, A: Address>(&mut self, op: &Op, change: impl FnOnce(&mut Self, T) -> T) -> Result<(), Fault> {
        let offset = A::offset(self, op);
        let linear = A::linear(self, op.seg, offset, T::SIZE, true)?;
        if let Some(pointer) = self.write_hit::<T>(linear) {
            // SAFETY: a TLB write hit means that the page is mapped, writable RAM of the VM.
            unsafe {
                let old = T::load(pointer);
                let new = change(self, old);
                T::store(pointer, new);
            }
            return Ok(());
        }
        self.probe_write(linear, T::SIZE as u32, op.seg)?;
        let old = T::from_u64(self.load_slow(linear, T::SIZE as u32, op.seg)?);
        let new = change(self, old);
        self.store_slow(linear, T::SIZE as u32, op.seg, new.to_u64())
    }

    /// LOCKed read-modify-write of the op's memory operand: returns (old, new). `change` may run several times.
    #[inline(always)]
    pub fn update_locked<T: Int, A: Address>(&mut self, op: &Op, change: impl Fn(T) -> T) -> Result<(T, T), Fault> {
        let offset = A::offset(self, op);
        let linear = A::linear(self, op.seg, offset, T::SIZE, true)?;
        if let Some(pointer) = self.write_hit::<T>(linear) {
            // SAFETY: a TLB write hit means that the page is mapped, writable RAM of the VM.
            unsafe {
                let mut old = T::load(pointer);
                loop {
                    let new = change(old);
                    let (found, done) = T::compare_exchange(pointer, old, new);
                    if done {
                        return Ok((old, new));
                    }
                    old = found;
                }
            }
        }
        let change = |old: u64| change(T::from_u64(old)).to_u64();
        let (old, new) = self.update_locked_slow(linear, T::SIZE as u32, op.seg, &change)?;
        Ok((T::from_u64(old), T::from_u64(new)))
    }

    /// XCHG with the op's memory operand: returns what was there.
    #[inline(always)]
    pub fn exchange<T: Int, A: Address>(&mut self, op: &Op, value: T) -> Result<T, Fault> {
        self.update_locked::<T, A>(op, |_| value).map(|(old, _)| old)
    }

    /// LOCK CMPXCHG of the op's memory operand: (what was there, replaced).
    #[inline(always)]
    pub fn compare_exchange<T: Int, A: Address>(&mut self, op: &Op, current: T, new: T) -> Result<(T, bool), Fault> {
        let (old, _) = self.update_locked::<T, A>(op, |old| if old == current { new } else { old })?;
        Ok((old, old == current))
    }

    /// PUSH of a value of the operand size.
    #[inline(always)]
    pub fn push<T: Int, A: Address>(&mut self, value: T) -> Result<(), Fault> {
        let pointer = self.stack_after_push::<A>(T::SIZE);
        self.write_at::<T, A>(2, pointer, value)?;
        A::set_stack_pointer(self, pointer);
        Ok(())
    }

    /// POP of a value of the operand size.
    #[inline(always)]
    pub fn pop<T: Int, A: Address>(&mut self) -> Result<T, Fault> {
        let pointer = A::stack_pointer(self);
        let value = self.read_at::<T, A>(2, pointer)?;
        A::set_stack_pointer(self, pointer.wrapping_add(T::SIZE));
        Ok(value)
    }

    /// Where the stack pointer is after pushing `size` bytes.
    #[inline(always)]
    fn stack_after_push<A: Address>(&self, size: u64) -> u64 {
        let pointer = self.regs[4].wrapping_sub(size);
        A::cut_stack_pointer(self, pointer)
    }
}
