//! Loads, stores and atomics of guest code: segment, TLB, host memory.
//!
//! The hit path is inlined into every handler; everything else is in `mmu/`, cold.

use crate::cpu::{Cpu, Mode, vector};
use crate::int::Int;
use crate::op::{Fault, Op};

/// Entries of a TLB.
pub(crate) const TLB_ENTRIES: usize = 4096;
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

    /// Where a linear address is looked up. Translated code does the same.
    #[inline(always)]
    pub fn index(linear: u64) -> usize {
        (linear >> 12) as usize & (TLB_ENTRIES - 1)
    }
}

/// A way to turn an operand into a linear address; the decoder chooses it per block mode.
pub(crate) trait Address: 'static {
    /// Whether an access that misses the TLB is made. If not it fails with nothing done and nothing raised, and the
    /// handler that asked is left for its complete form: see [`crate::op::retrying`].
    const COMPLETE: bool = true;
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
/// Everything else; right for the other two as well.
pub(crate) struct Full;
/// [`Flat`], TLB hits only.
pub(crate) struct FastFlat;
/// [`Flat`] without an index register, TLB hits only.
pub(crate) struct FastBase;
/// [`Flat32`], TLB hits only.
pub(crate) struct FastFlat32;

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

/// The fast form of an address type.
macro_rules! fast {
    ($fast:ident of $complete:ident, $offset:expr) => {
        impl Address for $fast {
            const COMPLETE: bool = false;
            #[inline(always)]
            fn offset(cpu: &Cpu, op: &Op) -> u64 {
                $offset(cpu, op)
            }
            #[inline(always)]
            fn linear(cpu: &mut Cpu, seg: u8, offset: u64, size: u64, write: bool) -> Result<u64, Fault> {
                $complete::linear(cpu, seg, offset, size, write)
            }
            #[inline(always)]
            fn cut_stack_pointer(cpu: &Cpu, value: u64) -> u64 {
                $complete::cut_stack_pointer(cpu, value)
            }
            #[inline(always)]
            fn set_stack_pointer(cpu: &mut Cpu, value: u64) {
                $complete::set_stack_pointer(cpu, value);
            }
        }
    };
}
fast!(FastFlat of Flat, Flat::offset);
fast!(FastFlat32 of Flat32, Flat32::offset);
fast!(FastBase of Flat, |cpu: &Cpu, op: &Op| {
    cpu.regs[usize::from(op.base & 31)].wrapping_add(op.disp as i64 as u64)
});

impl Address for Full {
    #[inline(always)]
    fn offset(cpu: &Cpu, op: &Op) -> u64 {
        // 2, 4, 8 bytes: keep 16, 32, 64 bits.
        sum(cpu, op) & (u64::MAX >> (64 - 8 * u32::from(op.address_size & 15)))
    }
    #[inline]
    fn linear(cpu: &mut Cpu, seg: u8, offset: u64, size: u64, write: bool) -> Result<u64, Fault> {
        let segment = &cpu.segments[usize::from(seg & 7)];
        if cpu.mode.has(Mode::LONG64) {
            // Only FS and GS have a base there.
            return Ok(if seg & 6 == 4 { segment.base.wrapping_add(offset) } else { offset });
        }
        let linear = segment.base.wrapping_add(offset);
        let last = offset + (size - 1);
        let allowed = if write { segment.writable } else { segment.readable };
        // A segment of 4 GiB has no end: operands at its top continue at its start.
        let endless = segment.low == 0 && segment.high == u32::MAX;
        if allowed && (endless || offset >= u64::from(segment.low) && last <= u64::from(segment.high)) {
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
    pub(crate) fn entry(&self, linear: u64) -> &TlbEntry {
        // SAFETY: `tlb` points to TLB_ENTRIES entries owned by this VP, and `index` is below that.
        unsafe { self.tlb.add(TlbEntry::index(linear)).as_ref() }
    }

    /// Host address for a read that lies in one page with a TLB hit.
    #[inline(always)]
    pub(crate) fn read_hit<T: Int>(&self, linear: u64) -> Option<*const u8> {
        let entry = self.entry(linear);
        // The last byte's page: a page-crossing access never equals the tag found through its first byte.
        let hit = linear.wrapping_add(T::SIZE - 1) & PAGE_MASK == entry.read;
        hit.then(|| linear.wrapping_add(entry.addend) as *const u8)
    }

    /// Host address for a write that lies in one page with a TLB hit.
    #[inline(always)]
    pub(crate) fn write_hit<T: Int>(&self, linear: u64) -> Option<*mut u8> {
        let entry = self.entry(linear);
        let hit = linear.wrapping_add(T::SIZE - 1) & PAGE_MASK == entry.write;
        hit.then(|| linear.wrapping_add(entry.addend) as *mut u8)
    }

    /// Loads from a linear address (segment `seg` only decides between #SS and #GP).
    #[inline(always)]
    pub fn load<T: Int, A: Address>(&mut self, linear: u64, seg: u8) -> Result<T, Fault> {
        match self.read_hit::<T>(linear) {
            // SAFETY: a TLB hit means that the page is mapped RAM or ROM of the VM, for as long as the entry lives.
            Some(pointer) => Ok(unsafe { T::load(pointer) }),
            None if !A::COMPLETE => Err(Fault),
            None => self.load_slow(linear, T::SIZE as u32, seg).map(T::from_u64),
        }
    }

    /// Stores to a linear address.
    #[inline(always)]
    pub fn store<T: Int, A: Address>(&mut self, linear: u64, seg: u8, value: T) -> Result<(), Fault> {
        match self.write_hit::<T>(linear) {
            // SAFETY: a TLB write hit means that the page is mapped, writable RAM of the VM.
            Some(pointer) => unsafe { T::store(pointer, value) },
            None if !A::COMPLETE => return Err(Fault),
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
        self.load::<T, A>(linear, seg)
    }

    /// Writes at an offset of a segment.
    #[inline(always)]
    pub fn write_at<T: Int, A: Address>(&mut self, seg: u8, offset: u64, value: T) -> Result<(), Fault> {
        let linear = A::linear(self, seg, offset, T::SIZE, true)?;
        self.store::<T, A>(linear, seg, value)
    }

    /// Read-modify-write of the op's memory operand, without LOCK. `change` runs once, only if nothing can fail any
    /// more: it may set flags and registers.
    #[inline(always)]
    pub fn update<T: Int, A: Address>(&mut self, op: &Op, change: impl FnOnce(&mut Self, T) -> T) -> Result<(), Fault> {
        let offset = A::offset(self, op);
        self.update_at::<T, A>(op.seg, offset, change)
    }

    /// [`Cpu::update`] at an offset of a segment.
    #[inline(always)]
    pub fn update_at<T: Int, A: Address>(
        &mut self,
        seg: u8,
        offset: u64,
        change: impl FnOnce(&mut Self, T) -> T,
    ) -> Result<(), Fault> {
        let linear = A::linear(self, seg, offset, T::SIZE, true)?;
        if let Some(pointer) = self.write_hit::<T>(linear) {
            // SAFETY: a TLB write hit means that the page is mapped, writable RAM of the VM.
            unsafe {
                let old = T::load(pointer);
                let new = change(self, old);
                T::store(pointer, new);
            }
            return Ok(());
        }
        if !A::COMPLETE {
            return Err(Fault);
        }
        self.probe_write(linear, T::SIZE as u32, seg)?;
        let old = T::from_u64(self.load_slow(linear, T::SIZE as u32, seg)?);
        let new = change(self, old);
        self.store_slow(linear, T::SIZE as u32, seg, new.to_u64())
    }

    /// LOCKed read-modify-write of the op's memory operand: returns (old, new). `change` may run several times.
    #[inline(always)]
    pub fn update_locked<T: Int, A: Address>(&mut self, op: &Op, change: impl Fn(T) -> T) -> Result<(T, T), Fault> {
        let offset = A::offset(self, op);
        self.update_locked_at::<T, A>(op.seg, offset, change)
    }

    /// [`Cpu::update_locked`] at an offset of a segment.
    #[inline(always)]
    pub fn update_locked_at<T: Int, A: Address>(
        &mut self,
        seg: u8,
        offset: u64,
        change: impl Fn(T) -> T,
    ) -> Result<(T, T), Fault> {
        let linear = A::linear(self, seg, offset, T::SIZE, true)?;
        // Over two cache lines a locked instruction locks the bus of the whole host: left to the slow path.
        if linear & 63 <= 64 - T::SIZE
            && let Some(pointer) = self.write_hit::<T>(linear)
        {
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
        if !A::COMPLETE {
            return Err(Fault);
        }
        let change = |old: u64| change(T::from_u64(old)).to_u64();
        let (old, new) = self.update_locked_slow(linear, T::SIZE as u32, seg, &change)?;
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

/// Bytes that are copied faster one by one than by the host's REP MOVSB.
const SHORT: usize = 64;

/// Host bytes of guest memory inside one page. Valid until the TLB changes: use it at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pointer: *mut u8,
    len: usize,
}

impl Span {
    /// `len` bytes at `pointer`, which must be mapped guest memory: only the MMU makes spans.
    pub(crate) fn new(pointer: *mut u8, len: usize) -> Self {
        Self { pointer, len }
    }

    /// The rest of it from `offset` on.
    pub fn skipping(&self, offset: usize) -> Self {
        assert!(offset <= self.len);
        Self { pointer: self.pointer.wrapping_add(offset), len: self.len - offset }
    }

    /// Copies from its start into `bytes` (at most `len`).
    #[inline]
    pub fn read(&self, bytes: &mut [u8]) {
        assert!(bytes.len() <= self.len);
        // SAFETY: spans are mapped guest memory; `bytes` is ours.
        unsafe { copy(bytes.as_mut_ptr(), self.pointer, bytes.len()) };
    }

    /// Copies `bytes` (at most `len`) to its start.
    #[inline]
    pub fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len);
        // SAFETY: spans for writing are mapped writable guest memory; `bytes` is ours.
        unsafe { copy(self.pointer, bytes.as_ptr(), bytes.len()) };
    }

    /// Copies `count` bytes from the start of `source` as REP MOVSB upwards does: byte after byte, also if they overlap.
    pub fn copy_forward(&self, source: &Span, count: usize) {
        assert!(count <= self.len && count <= source.len);
        // SAFETY: both spans are mapped guest memory of at least `count` bytes; the instruction defines overlaps.
        unsafe {
            std::arch::asm!("rep movsb", inout("rcx") count => _, inout("rsi") source.pointer => _,
                inout("rdi") self.pointer => _, options(nostack, preserves_flags));
        }
    }

    /// Fills `count` elements from its start.
    pub fn fill<T: Int>(&self, count: usize, value: T) {
        assert!(count <= self.len >> T::LOG);
        let (pointer, value) = (self.pointer, value.to_u64());
        // SAFETY: the span is mapped writable guest memory of at least `count` elements.
        unsafe {
            match T::BITS {
                8 => std::arch::asm!("rep stosb", inout("rcx") count => _, inout("rdi") pointer => _,
                    in("rax") value, options(nostack, preserves_flags)),
                16 => std::arch::asm!("rep stosw", inout("rcx") count => _, inout("rdi") pointer => _,
                    in("rax") value, options(nostack, preserves_flags)),
                32 => std::arch::asm!("rep stosd", inout("rcx") count => _, inout("rdi") pointer => _,
                    in("rax") value, options(nostack, preserves_flags)),
                _ => std::arch::asm!("rep stosq", inout("rcx") count => _, inout("rdi") pointer => _,
                    in("rax") value, options(nostack, preserves_flags)),
            }
        }
    }

    /// Loads element `index`.
    #[inline(always)]
    pub fn get<T: Int>(&self, index: usize) -> T {
        assert!((index + 1) << T::LOG <= self.len);
        // SAFETY: inside the span, which is mapped guest memory.
        unsafe { T::load(self.pointer.add(index << T::LOG)) }
    }

    /// Stores element `index`.
    #[inline(always)]
    pub fn set<T: Int>(&self, index: usize, value: T) {
        assert!((index + 1) << T::LOG <= self.len);
        // SAFETY: inside the span, which is mapped writable guest memory.
        unsafe { T::store(self.pointer.add(index << T::LOG), value) }
    }

    /// Copies `count` elements from the start of `source` as REP MOVS upwards does: element after element, also if they
    /// overlap.
    pub fn copy_elements<T: Int>(&self, source: &Span, count: usize) {
        let (bytes, distance) = (count << T::LOG, self.distance_from(source));
        if bytes <= SHORT && distance >= bytes {
            return self.copy_short(source, bytes);
        }
        if distance == 0 || distance >= T::SIZE as usize {
            return self.copy_forward(source, bytes);
        }
        for index in 0..count {
            self.set::<T>(index, source.get::<T>(index));
        }
    }

    /// Copies `count` elements from the start of `source` as REP MOVS downwards does: the last one first.
    pub fn copy_elements_down<T: Int>(&self, source: &Span, count: usize) {
        let bytes = count << T::LOG;
        let behind = source.distance_from(self);
        if behind == 0 || behind >= bytes {
            // No element is overwritten before it is read.
            let mut buffer = [0; 4096];
            source.read(&mut buffer[..bytes]);
            return self.write(&buffer[..bytes]);
        }
        for index in (0..count).rev() {
            self.set::<T>(index, source.get::<T>(index));
        }
    }

    /// How far its start is behind that of `other`; huge if it is in front.
    fn distance_from(&self, other: &Span) -> usize {
        (self.pointer as usize).wrapping_sub(other.pointer as usize)
    }

    /// For lengths that the host's REP MOVSB takes longer to begin with than to copy. No byte may be overwritten before
    /// it is read.
    fn copy_short(&self, source: &Span, bytes: usize) {
        for index in 0..bytes / 8 {
            self.set::<u64>(index, source.get::<u64>(index));
        }
        for index in bytes & !7..bytes {
            self.set::<u8>(index, source.get::<u8>(index));
        }
    }

    /// A number of elements from the start (of `count`) that all equal `value`, or with `EQUAL` false that all differ
    /// from it. Not necessarily the largest.
    pub fn skip_value<T: Int, const EQUAL: bool>(&self, count: usize, value: T) -> usize {
        // The value, and the lowest and highest bit, in every lane of a word.
        let lows = u64::MAX / T::MASK;
        let (pattern, highs) = (value.to_u64().wrapping_mul(lows), lows << (T::BITS - 1));
        let words = (count << T::LOG) / 8;
        let stop = (0..words).find(|&index| {
            let difference = self.get::<u64>(index) ^ pattern;
            if EQUAL { difference != 0 } else { difference.wrapping_sub(lows) & !difference & highs != 0 }
        });
        (stop.unwrap_or(words) * 8) >> T::LOG
    }

    /// A number of bytes (of `bytes`) that are equal in both spans, from their starts. Not necessarily the largest.
    pub fn equal_prefix(&self, other: &Span, bytes: usize) -> usize {
        let words = bytes / 8;
        let stop = (0..words).find(|&index| self.get::<u64>(index) != other.get::<u64>(index));
        stop.unwrap_or(words) * 8
    }

    /// LOCKed read-modify-write of all its bytes (1, 2, 4, 8).
    pub(crate) fn update_locked(&self, change: &dyn Fn(u64) -> u64) -> (u64, u64) {
        match self.len {
            1 => self.update_int::<u8>(change),
            2 => self.update_int::<u16>(change),
            4 => self.update_int::<u32>(change),
            _ => self.update_int::<u64>(change),
        }
    }

    fn update_int<T: Int>(&self, change: &dyn Fn(u64) -> u64) -> (u64, u64) {
        assert!(T::SIZE as usize <= self.len);
        // SAFETY: inside the span, which is mapped writable guest memory.
        unsafe {
            let mut old = T::load(self.pointer);
            loop {
                let new = T::from_u64(change(old.to_u64()));
                let (found, done) = T::compare_exchange(self.pointer, old, new);
                if done {
                    return (old.to_u64(), new.to_u64());
                }
                old = found;
            }
        }
    }

    /// LOCK CMPXCHG16B on its 16 aligned bytes: (what was there, replaced).
    pub(crate) fn compare_exchange_16(&self, current: u128, new: u128) -> (u128, bool) {
        assert!(self.len >= 16 && (self.pointer as usize).is_multiple_of(16));
        let (mut low, mut high) = (current as u64, (current >> 64) as u64);
        let equal: u8;
        // SAFETY: 16 aligned bytes of mapped writable guest memory. RBX is saved because the compiler reserves it.
        unsafe {
            std::arch::asm!("xchg rbx, {new_low}", "lock cmpxchg16b xmmword ptr [{p}]", "sete {equal}",
                "mov rbx, {new_low}", new_low = inout(reg) new as u64 => _, p = in(reg) self.pointer,
                equal = out(reg_byte) equal, inout("rax") low, inout("rdx") high,
                in("rcx") (new >> 64) as u64, options(nostack));
        }
        (u128::from(low) | u128::from(high) << 64, equal != 0)
    }
}

/// Copies bytes between our memory and guest memory that others may be changing. Short lengths are one access each, so
/// that aligned operands stay atomic.
///
/// # Safety
/// `len` bytes at both pointers are mapped; they do not overlap.
#[inline]
unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: all accesses lie in the `len` bytes that the caller vouches for.
    unsafe {
        match len {
            1 => u8::store(to, u8::load(from)),
            2 => u16::store(to, u16::load(from)),
            4 => u32::store(to, u32::load(from)),
            8 => u64::store(to, u64::load(from)),
            _ => std::arch::asm!("rep movsb", inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _,
                options(nostack, preserves_flags)),
        }
    }
}

impl Cpu {
    /// LOCK CMPXCHG16B of the op's memory operand; the address must be aligned. (What was there, replaced.)
    pub fn compare_exchange_16<A: Address>(
        &mut self,
        op: &Op,
        current: u128,
        new: u128,
    ) -> Result<(u128, bool), Fault> {
        let offset = A::offset(self, op);
        let linear = A::linear(self, op.seg, offset, 16, true)?;
        if linear & 15 != 0 {
            return Err(self.raise_code(vector::GP, 0));
        }
        self.compare_exchange_16_at(linear, op.seg, current, new)
    }
}
