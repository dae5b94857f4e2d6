//! Segment registers: descriptors, and loading data segments (SDM vol. 3, chapters 3 and 5).

use crate::cpu::{Cpu, Mode, SegmentRegister, rflags, vector};
use crate::op::Fault;
use bulkhead_engine::Segment;

/// Register numbers.
pub(crate) const ES: usize = 0;
pub(crate) const CS: usize = 1;
pub(crate) const SS: usize = 2;
pub(crate) const DS: usize = 3;
pub(crate) const FS: usize = 4;
pub(crate) const GS: usize = 5;

/// A descriptor as it lies in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// The 8 bytes.
    pub raw: u64,
    /// The upper 8 bytes of 16-byte system descriptors in long mode.
    pub high: u64,
    /// Where it lies.
    pub address: u64,
}

/// Types of system descriptors.
pub(crate) mod system {
    pub const LDT: u8 = 2;
    pub const TSS_AVAILABLE_16: u8 = 1;
    pub const TSS_BUSY_16: u8 = 3;
    pub const CALL_GATE_16: u8 = 4;
    pub const TASK_GATE: u8 = 5;
    pub const INTERRUPT_GATE_16: u8 = 6;
    pub const TRAP_GATE_16: u8 = 7;
    pub const TSS_AVAILABLE: u8 = 9;
    pub const TSS_BUSY: u8 = 11;
    pub const CALL_GATE: u8 = 12;
    pub const INTERRUPT_GATE: u8 = 14;
    pub const TRAP_GATE: u8 = 15;
}

impl Descriptor {
    /// Access rights as in [`Segment::attributes`].
    pub fn attributes(self) -> u16 {
        (self.raw >> 40) as u16 & 0xf0ff
    }
    /// Type, 0–15.
    pub fn kind(self) -> u8 {
        (self.raw >> 40) as u8 & 15
    }
    /// S: code or data.
    pub fn is_segment(self) -> bool {
        self.raw & 1 << 44 != 0
    }
    /// Code segment.
    pub fn is_code(self) -> bool {
        self.is_segment() && self.kind() & 8 != 0
    }
    /// Conforming code segment.
    pub fn is_conforming(self) -> bool {
        self.is_code() && self.kind() & 4 != 0
    }
    /// Readable code, or data.
    pub fn is_readable(self) -> bool {
        self.is_segment() && (self.kind() & 8 == 0 || self.kind() & 2 != 0)
    }
    /// Writable data segment.
    pub fn is_writable(self) -> bool {
        self.is_segment() && self.kind() & 10 == 2
    }
    /// P.
    pub fn is_present(self) -> bool {
        self.raw & 1 << 47 != 0
    }
    /// DPL.
    pub fn dpl(self) -> u8 {
        (self.raw >> 45) as u8 & 3
    }
    /// L: 64-bit code.
    pub fn is_long(self) -> bool {
        self.raw & 1 << 53 != 0
    }
    /// D/B.
    pub fn is_big(self) -> bool {
        self.raw & 1 << 54 != 0
    }
    /// Base address, 64 bits for long-mode system descriptors.
    pub fn base(self) -> u64 {
        (self.raw >> 16 & 0xff_ffff) | (self.raw >> 32 & 0xff00_0000) | self.high << 32
    }
    /// Limit in bytes.
    pub fn limit(self) -> u32 {
        let limit = (self.raw & 0xffff) as u32 | (self.raw >> 32) as u32 & 0xf_0000;
        if self.raw & 1 << 55 != 0 { limit << 12 | 0xfff } else { limit }
    }
    /// Target selector of a gate.
    pub fn gate_selector(self) -> u16 {
        (self.raw >> 16) as u16
    }
    /// Target offset of a 32- or 64-bit gate.
    pub fn gate_offset(self) -> u64 {
        self.raw & 0xffff | self.raw >> 32 & 0xffff_0000 | self.high << 32
    }

    /// The segment register that this descriptor makes.
    pub fn register(self, selector: u16) -> SegmentRegister {
        SegmentRegister::from(Segment {
            base: self.base(),
            limit: self.limit(),
            selector,
            attributes: self.attributes(),
        })
    }
}

impl From<Segment> for SegmentRegister {
    fn from(segment: Segment) -> Self {
        let Segment { base, limit, selector, attributes } = segment;
        let usable = attributes & (Segment::PRESENT | 1 << 4) == Segment::PRESENT | 1 << 4;
        let kind = attributes & 15;
        let expands_down = kind & 12 == 4;
        let top = if attributes & Segment::BIG != 0 { u32::MAX } else { 0xffff };
        let (low, high) = if expands_down { (limit.saturating_add(1), top) } else { (0, limit) };
        // An expand-down segment with the largest limit has no valid offset at all.
        let any = !expands_down || limit < top;
        Self {
            base,
            low,
            high,
            limit,
            selector,
            attributes,
            readable: usable && any && (kind & 8 == 0 || kind & 2 != 0),
            writable: usable && any && kind & 10 == 2,
        }
    }
}

impl From<SegmentRegister> for Segment {
    fn from(register: SegmentRegister) -> Self {
        let SegmentRegister { base, limit, selector, attributes, .. } = register;
        Self { base, limit, selector, attributes }
    }
}

impl SegmentRegister {
    /// A null selector's register. In 64-bit mode and on AMD processors it clears the base.
    fn null(selector: u16) -> Self {
        Self::from(Segment { selector, ..Segment::default() })
    }

    /// CS after a far transfer in real mode. Limit and rights stay, but code can be written through CS there, also when it
    /// was a code segment of protected mode before: boot loaders do that on their way back from 32-bit mode.
    pub fn real_mode_code(self, selector: u16) -> Self {
        const READ_WRITE_ACCESSED: u16 = 3;
        let Segment { limit, attributes, .. } = self.into();
        let attributes = attributes & !0xf | READ_WRITE_ACCESSED;
        Self::from(Segment { base: u64::from(selector) << 4, limit, selector, attributes })
    }

    /// A segment of virtual-8086 mode.
    pub fn virtual_8086(selector: u16) -> Self {
        Self::from(Segment { base: u64::from(selector) << 4, limit: 0xffff, selector, attributes: 0xf3 })
    }
}

impl Cpu {
    /// Whether selectors are paragraph numbers.
    #[inline]
    pub(crate) fn is_real_or_v86(&self) -> bool {
        !self.mode.has(Mode::PROTECTED)
    }

    /// Whether EFER.LMA is set.
    #[inline]
    pub(crate) fn is_lma(&self) -> bool {
        self.mode.has(Mode::LMA)
    }

    /// Reads a descriptor; `vector` is raised with the selector as error code if it lies beyond its table.
    pub(crate) fn descriptor(&mut self, selector: u16, vector: u8) -> Result<Descriptor, Fault> {
        match self.find_descriptor(selector)? {
            Some(descriptor) => Ok(descriptor),
            None => Err(self.raise_code(vector, u32::from(selector & !3))),
        }
    }

    /// Reads a descriptor; `None` if it lies beyond its table. In long mode system descriptors have 16 bytes.
    pub(crate) fn find_descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Fault> {
        let offset = u64::from(selector & !7);
        let (base, limit) = if selector & 4 == 0 {
            (self.gdtr.base, u64::from(self.gdtr.limit))
        } else if self.ldtr.attributes & Segment::PRESENT != 0 {
            (self.ldtr.base, u64::from(self.ldtr.limit))
        } else {
            return Ok(None);
        };
        if offset + 7 > limit {
            return Ok(None);
        }
        let address = base.wrapping_add(offset);
        let raw = self.load_system(address, 8)?;
        let mut descriptor = Descriptor { raw, high: 0, address };
        if self.is_lma() && !descriptor.is_segment() {
            if offset + 15 > limit {
                return Ok(None);
            }
            descriptor.high = self.load_system(address.wrapping_add(8), 8)?;
        }
        Ok(Some(descriptor))
    }

    /// Sets the accessed bit of a code or data descriptor.
    pub(crate) fn mark_accessed(&mut self, descriptor: &mut Descriptor) -> Result<(), Fault> {
        if descriptor.raw & 1 << 40 == 0 {
            descriptor.raw |= 1 << 40;
            self.store_system(descriptor.address.wrapping_add(5), 1, descriptor.raw >> 40 & 0xff)?;
        }
        Ok(())
    }

    /// MOV, POP and the like into ES, SS, DS, FS, GS.
    pub(crate) fn load_segment(&mut self, seg: usize, selector: u16) -> Result<(), Fault> {
        if self.is_real_or_v86() {
            self.load_paragraph(seg, selector);
            return Ok(());
        }
        let register = if seg == SS { self.check_stack(selector)? } else { self.check_data(selector)? };
        self.segments[seg] = register;
        self.segments_changed(seg);
        Ok(())
    }

    fn load_paragraph(&mut self, seg: usize, selector: u16) {
        if self.system_flags & rflags::VM != 0 {
            self.segments[seg] = SegmentRegister::virtual_8086(selector);
        } else {
            // Limit and rights stay: "unreal mode" depends on it.
            self.segments[seg].selector = selector;
            self.segments[seg].base = u64::from(selector) << 4;
        }
        self.segments_changed(seg);
    }

    /// The mode word depends on whether segments are flat.
    fn segments_changed(&mut self, seg: usize) {
        if !self.is_long64() && seg < FS {
            self.update_mode();
        }
    }

    fn check_data(&mut self, selector: u16) -> Result<SegmentRegister, Fault> {
        if selector & !3 == 0 {
            return Ok(SegmentRegister::null(selector));
        }
        let mut descriptor = self.descriptor(selector, vector::GP)?;
        let code = u32::from(selector & !3);
        let rpl = (selector & 3) as u8;
        let privileged = !descriptor.is_conforming() && rpl.max(self.cpl) > descriptor.dpl();
        if !descriptor.is_readable() || privileged {
            return Err(self.raise_code(vector::GP, code));
        }
        if !descriptor.is_present() {
            return Err(self.raise_code(vector::NP, code));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.register(selector))
    }

    fn check_stack(&mut self, selector: u16) -> Result<SegmentRegister, Fault> {
        if selector & !3 == 0 {
            if self.is_long64() && self.cpl < 3 && (selector & 3) as u8 == self.cpl {
                return Ok(self.null_stack(selector));
            }
            return Err(self.gp());
        }
        self.check_stack_for(selector, self.cpl, vector::GP, vector::SS)
    }

    /// The stack segment after a null selector in 64-bit mode: its DPL is the CPL.
    pub(crate) fn null_stack(&self, selector: u16) -> SegmentRegister {
        let attributes = u16::from(selector as u8 & 3) << 5;
        SegmentRegister::from(Segment { selector, attributes, ..Segment::default() })
    }

    /// Checks a stack segment for privilege `cpl`; `bad` is raised for a wrong one, `absent` for one not present.
    pub(crate) fn check_stack_for(
        &mut self,
        selector: u16,
        cpl: u8,
        bad: u8,
        absent: u8,
    ) -> Result<SegmentRegister, Fault> {
        let code = u32::from(selector & !3);
        let mut descriptor = self.descriptor(selector, bad)?;
        if (selector & 3) as u8 != cpl || !descriptor.is_writable() || descriptor.dpl() != cpl {
            return Err(self.raise_code(bad, code));
        }
        if !descriptor.is_present() {
            return Err(self.raise_code(absent, code));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.register(selector))
    }

    /// Sets CS, and the CPL; virtual addresses of blocks must be looked up again where CS has a base or limit.
    pub(crate) fn set_code_segment(&mut self, register: SegmentRegister, cpl: u8) {
        let old = &self.segments[CS];
        if old.base != register.base || old.high != register.high {
            self.forget_addresses();
        }
        self.segments[CS] = register;
        self.cpl = cpl;
        self.update_mode();
    }

    /// After a return to a less privileged level: data segments that it may not use become null.
    pub(crate) fn drop_privileged_segments(&mut self) {
        for seg in [ES, DS, FS, GS] {
            let register = &self.segments[seg];
            let dpl = (register.attributes >> 5 & 3) as u8;
            let conforming = register.attributes & 0x1c == 0x1c;
            // Null selectors stay: in 64-bit mode FS and GS have their base without one.
            if register.selector & !3 != 0 && !conforming && dpl < self.cpl {
                self.segments[seg] = SegmentRegister::null(0);
            }
        }
        self.update_mode();
    }
}
