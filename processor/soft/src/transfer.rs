//! Far transfers: JMP, CALL, RET and IRET through selectors, gates and privilege levels.

use crate::cpu::{Cpu, SegmentRegister, rflags, vector};
use crate::mmu::is_canonical;
use crate::op::Fault;
use crate::segment::{CS, DS, Descriptor, ES, FS, GS, SS, system};
use crate::stack::StackFrame;

impl Cpu {
    /// CS in real or virtual-8086 mode.
    fn set_code_paragraph(&mut self, selector: u16) {
        let register = if self.system_flags & rflags::VM != 0 {
            SegmentRegister::virtual_8086(selector)
        } else {
            self.segments[CS].real_mode_code(selector)
        };
        self.set_code_segment(register, self.cpl);
    }

    /// Checks that `offset` can be executed in a code segment.
    fn check_target(&mut self, descriptor: &Descriptor, offset: u64) -> Result<(), Fault> {
        let long = self.is_lma() && descriptor.is_long();
        let good = if long { is_canonical(offset) } else { offset <= u64::from(descriptor.limit()) };
        if good { Ok(()) } else { Err(self.gp()) }
    }

    /// Loads the code descriptor of a direct far JMP or CALL, or the gate or TSS that the selector names.
    fn far_target(&mut self, selector: u16) -> Result<Descriptor, Fault> {
        if selector & !3 == 0 {
            return Err(self.gp());
        }
        self.descriptor(selector, vector::GP)
    }

    /// Checks a code segment that is entered without a gate.
    fn check_direct(&mut self, descriptor: &Descriptor, selector: u16) -> Result<(), Fault> {
        let code = u32::from(selector & !3);
        let rpl = (selector & 3) as u8;
        let allowed = if descriptor.is_conforming() {
            descriptor.dpl() <= self.cpl
        } else {
            rpl <= self.cpl && descriptor.dpl() == self.cpl
        };
        if !allowed || self.is_lma() && descriptor.is_long() && descriptor.is_big() {
            return Err(self.raise_code(vector::GP, code));
        }
        if !descriptor.is_present() {
            return Err(self.raise_code(vector::NP, code));
        }
        Ok(())
    }

    fn enter_code(&mut self, mut descriptor: Descriptor, selector: u16, offset: u64, cpl: u8) -> Result<(), Fault> {
        self.mark_accessed(&mut descriptor)?;
        let register = descriptor.register(selector & !3 | u16::from(cpl));
        self.set_code_segment(register, cpl);
        self.set_rip(if self.is_long64() { offset } else { offset & 0xffff_ffff });
        Ok(())
    }

    /// JMP far.
    pub(crate) fn far_jump(&mut self, selector: u16, offset: u64) -> Result<(), Fault> {
        if self.is_real_or_v86() {
            if offset > u64::from(self.segments[CS].high) {
                return Err(self.gp());
            }
            self.set_code_paragraph(selector);
            self.set_rip(offset);
            return Ok(());
        }
        let descriptor = self.far_target(selector)?;
        if descriptor.is_code() {
            self.check_direct(&descriptor, selector)?;
            self.check_target(&descriptor, offset)?;
            return self.enter_code(descriptor, selector, offset, self.cpl);
        }
        let gate = self.check_call_gate(&descriptor, selector)?;
        let (target, selector, offset) = (gate.target, gate.selector, gate.offset);
        // A jump never changes the privilege level.
        if !target.is_conforming() && target.dpl() != self.cpl {
            return Err(self.raise_code(vector::GP, u32::from(selector & !3)));
        }
        self.check_target(&target, offset)?;
        self.enter_code(target, selector, offset, self.cpl)
    }

    /// CALL far; `size` is the operand size in bytes, `next` the return address.
    pub(crate) fn far_call(&mut self, selector: u16, offset: u64, size: u32, next: u64) -> Result<(), Fault> {
        let mut frame = StackFrame::current(self);
        let old_cs = u64::from(self.segments[CS].selector);
        if self.is_real_or_v86() {
            if offset > u64::from(self.segments[CS].high) {
                return Err(self.gp());
            }
            frame.push(self, size, old_cs)?;
            frame.push(self, size, next)?;
            frame.commit(self);
            self.set_code_paragraph(selector);
            self.set_rip(offset);
            return Ok(());
        }
        let descriptor = self.far_target(selector)?;
        if !descriptor.is_code() {
            return self.call_gate(&descriptor, selector, next);
        }
        self.check_direct(&descriptor, selector)?;
        self.check_target(&descriptor, offset)?;
        // Into 64-bit code from compatibility mode the pushes are as the old code's.
        frame.push(self, size, old_cs)?;
        frame.push(self, size, next)?;
        let cpl = self.cpl;
        self.enter_code(descriptor, selector, offset, cpl)?;
        self.commit_current(frame);
        Ok(())
    }

    /// Takes the pointer of a frame on the current stack.
    fn commit_current(&mut self, frame: StackFrame) {
        frame.commit(self);
        self.update_mode();
    }

    /// The gate behind a selector; TSS and task gates are refused: there are no hardware task switches.
    fn check_call_gate(&mut self, gate: &Descriptor, selector: u16) -> Result<Gate, Fault> {
        let code = u32::from(selector & !3);
        let kind = gate.kind();
        let is_gate = kind == system::CALL_GATE || kind == system::CALL_GATE_16 && !self.is_lma();
        let rpl = (selector & 3) as u8;
        if gate.is_segment() || !is_gate || gate.dpl() < self.cpl || rpl > gate.dpl() {
            return Err(self.raise_code(vector::GP, code));
        }
        if !gate.is_present() {
            return Err(self.raise_code(vector::NP, code));
        }
        let selector = gate.gate_selector();
        if selector & !3 == 0 {
            return Err(self.gp());
        }
        let code = u32::from(selector & !3);
        let target = self.descriptor(selector, vector::GP)?;
        let long_rule = !self.is_lma() || target.is_long() && !target.is_big();
        if !target.is_code() || target.dpl() > self.cpl || !long_rule {
            return Err(self.raise_code(vector::GP, code));
        }
        if !target.is_present() {
            return Err(self.raise_code(vector::NP, code));
        }
        let wide = kind == system::CALL_GATE;
        let offset = if wide { gate.gate_offset() } else { gate.gate_offset() & 0xffff };
        let size = if self.is_lma() { 8 } else { 2 << u32::from(wide) };
        Ok(Gate { target, selector, offset, size, parameters: if self.is_lma() { 0 } else { gate.raw >> 32 & 31 } })
    }

    fn call_gate(&mut self, gate: &Descriptor, selector: u16, next: u64) -> Result<(), Fault> {
        let gate = self.check_call_gate(gate, selector)?;
        let old_cs = u64::from(self.segments[CS].selector);
        self.check_target(&gate.target, gate.offset)?;
        let inward = !gate.target.is_conforming() && gate.target.dpl() < self.cpl;
        if !inward {
            let mut frame = StackFrame::current(self);
            frame.push(self, gate.size, old_cs)?;
            frame.push(self, gate.size, next)?;
            let cpl = self.cpl;
            self.enter_code(gate.target, gate.selector, gate.offset, cpl)?;
            self.commit_current(frame);
            return Ok(());
        }
        let cpl = gate.target.dpl();
        let mut frame = self.tss_stack(cpl, self.is_lma())?;
        frame.push(self, gate.size, u64::from(self.segments[SS].selector))?;
        frame.push(self, gate.size, self.regs[4] & if gate.size == 2 { 0xffff } else { u64::MAX })?;
        for index in (0..gate.parameters).rev() {
            let parameter = self.peek(gate.size, index)?;
            frame.push(self, gate.size, parameter)?;
        }
        frame.push(self, gate.size, old_cs)?;
        frame.push(self, gate.size, next)?;
        self.enter_code(gate.target, gate.selector, gate.offset, cpl)?;
        self.commit_current(frame);
        Ok(())
    }

    /// RET far, dropping `extra` bytes of parameters.
    pub(crate) fn far_return(&mut self, size: u32, extra: u64) -> Result<(), Fault> {
        let offset = self.peek(size, 0)?;
        let selector = self.peek(size, 1)? as u16;
        let frame_bytes = 2 * u64::from(size);
        if self.is_real_or_v86() {
            if offset > u64::from(self.segments[CS].high) {
                return Err(self.gp());
            }
            self.drop_stack(frame_bytes + extra);
            self.set_code_paragraph(selector);
            self.set_rip(offset);
            return Ok(());
        }
        let descriptor = self.return_target(selector)?;
        self.check_target(&descriptor, offset)?;
        let rpl = (selector & 3) as u8;
        if rpl == self.cpl {
            self.drop_stack(frame_bytes + extra);
            return self.enter_code(descriptor, selector, offset, rpl);
        }
        let outer_sp = self.peek_at(size, frame_bytes + extra)?;
        let outer_ss = self.peek_at(size, frame_bytes + extra + u64::from(size))? as u16;
        self.return_outward(descriptor, selector, offset, outer_ss, outer_sp, size)?;
        let mask = self.stack_mask();
        let sp = self.regs[4].wrapping_add(extra);
        self.set_stack_pointer(sp, mask);
        Ok(())
    }

    /// Checks the code segment that RET or IRET returns to.
    ///
    /// It is marked accessed already: from then on the return cannot fail.
    fn return_target(&mut self, selector: u16) -> Result<Descriptor, Fault> {
        if selector & !3 == 0 {
            return Err(self.gp());
        }
        let code = u32::from(selector & !3);
        let mut descriptor = self.descriptor(selector, vector::GP)?;
        let rpl = (selector & 3) as u8;
        let privilege_fits = if descriptor.is_conforming() { descriptor.dpl() <= rpl } else { descriptor.dpl() == rpl };
        let long_rule = !(self.is_lma() && descriptor.is_long() && descriptor.is_big());
        if !descriptor.is_code() || rpl < self.cpl || !privilege_fits || !long_rule {
            return Err(self.raise_code(vector::GP, code));
        }
        if !descriptor.is_present() {
            return Err(self.raise_code(vector::NP, code));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor)
    }

    /// Checks the stack segment of an outer level (or the same in long mode).
    fn return_stack(&mut self, selector: u16, cpl: u8, to_long: bool) -> Result<SegmentRegister, Fault> {
        if selector & !3 == 0 {
            if to_long && cpl != 3 && (selector & 3) as u8 == cpl {
                return Ok(self.null_stack(selector));
            }
            return Err(self.gp());
        }
        self.check_stack_for(selector, cpl, vector::GP, vector::SS)
    }

    fn return_outward(
        &mut self,
        descriptor: Descriptor,
        selector: u16,
        offset: u64,
        ss: u16,
        sp: u64,
        size: u32,
    ) -> Result<(), Fault> {
        let cpl = (selector & 3) as u8;
        let to_long = self.is_lma() && descriptor.is_long();
        let ss = self.return_stack(ss, cpl, to_long)?;
        let outward = cpl != self.cpl;
        self.enter_code(descriptor, selector, offset, cpl)?;
        self.segments[SS] = ss;
        let mask = self.stack_mask();
        let sp = if size == 2 { sp & 0xffff } else { sp };
        self.set_stack_pointer(sp, mask);
        if outward {
            self.drop_privileged_segments();
        } else {
            self.update_mode();
        }
        Ok(())
    }

    /// IRET.
    pub(crate) fn interrupt_return(&mut self, size: u32) -> Result<(), Fault> {
        if self.is_real_or_v86() {
            return self.interrupt_return_real(size);
        }
        if self.system_flags & rflags::NT != 0 {
            // A return to another task; there are no hardware task switches.
            return Err(self.gp());
        }
        let offset = self.peek(size, 0)?;
        let selector = self.peek(size, 1)? as u16;
        let flags = self.peek(size, 2)?;
        let old_cpl = self.cpl;
        if flags & rflags::VM != 0 && size == 4 && self.cpl == 0 && !self.is_lma() {
            return self.return_to_v86(offset, selector, flags);
        }
        let descriptor = self.return_target(selector)?;
        self.check_target(&descriptor, offset)?;
        let rpl = (selector & 3) as u8;
        if rpl != self.cpl || self.is_long64() {
            let sp = self.peek(size, 3)?;
            let ss = self.peek(size, 4)? as u16;
            self.return_outward(descriptor, selector, offset, ss, sp, size)?;
        } else {
            self.drop_stack(3 * u64::from(size));
            self.enter_code(descriptor, selector, offset, rpl)?;
        }
        let writable = self.writable_flags(old_cpl);
        self.load_flags(flags, writable, size);
        self.nmi_blocked = false;
        self.update_mode();
        Ok(())
    }

    fn interrupt_return_real(&mut self, size: u32) -> Result<(), Fault> {
        let v86 = self.system_flags & rflags::VM != 0;
        if v86 && self.system_flags & rflags::IOPL != rflags::IOPL {
            return Err(self.gp());
        }
        let offset = self.peek(size, 0)?;
        let selector = self.peek(size, 1)? as u16;
        let flags = self.peek(size, 2)?;
        if offset > u64::from(self.segments[CS].high) {
            return Err(self.gp());
        }
        self.drop_stack(3 * u64::from(size));
        self.set_code_paragraph(selector);
        self.set_rip(offset);
        let writable = if v86 { self.writable_flags(3) & !rflags::IOPL | rflags::IF } else { self.writable_flags(0) };
        self.load_flags(flags, writable, size);
        self.nmi_blocked = false;
        self.update_mode();
        Ok(())
    }

    fn return_to_v86(&mut self, offset: u64, selector: u16, flags: u64) -> Result<(), Fault> {
        let mut words = [0; 6];
        for (index, word) in words.iter_mut().enumerate() {
            *word = self.peek(4, 3 + index as u64)?;
        }
        self.set_rflags(flags & ALL_FLAGS);
        for (seg, word) in [(SS, words[1]), (ES, words[2]), (DS, words[3]), (FS, words[4]), (GS, words[5])] {
            self.segments[seg] = SegmentRegister::virtual_8086(word as u16);
        }
        self.regs[4] = words[0] & 0xffff_ffff;
        self.set_code_segment(SegmentRegister::virtual_8086(selector), 3);
        self.set_rip(offset & 0xffff);
        self.nmi_blocked = false;
        Ok(())
    }

    /// RFLAGS bits that POPF and IRET may change at a privilege level.
    pub(crate) fn writable_flags(&self, cpl: u8) -> u64 {
        let iopl = (self.system_flags >> 12 & 3) as u8;
        let mut writable =
            crate::flags::ARITHMETIC | rflags::TF | rflags::DF | rflags::NT | rflags::RF | rflags::AC | rflags::ID;
        if cpl <= iopl {
            writable |= rflags::IF;
        }
        if cpl == 0 {
            writable |= rflags::IOPL | rflags::VIF | rflags::VIP;
        }
        writable
    }

    /// Loads those flags that are writable; 16-bit operands reach only the lower half.
    pub(crate) fn load_flags(&mut self, value: u64, writable: u64, size: u32) {
        let writable = if size == 2 { writable & 0xffff } else { writable };
        let new = self.rflags() & !writable | value & writable;
        self.set_rflags(new);
    }
}

/// Every flag that exists.
const ALL_FLAGS: u64 = 0x3f_7fd5;

struct Gate {
    target: Descriptor,
    selector: u16,
    offset: u64,
    size: u32,
    parameters: u64,
}
