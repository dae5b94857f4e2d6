//! Delivery of exceptions and interrupts through the IVT or IDT (SDM vol. 3, chapter 6).

use crate::cpu::{Cpu, Exception, SegmentRegister, rflags, vector};
use crate::op::Fault;
use crate::segment::{CS, DS, Descriptor, ES, FS, GS, SS, system};
use crate::stack::StackFrame;

/// Where an event comes from; decides on privilege checks and error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The processor found it while executing.
    Exception,
    /// Interrupt controller or NMI.
    External,
    /// INT n, INT3, INTO: the gate's DPL is checked.
    Software,
}

/// The processor gave up: a triple fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TripleFault;

/// How two exceptions combine (SDM table 6-5).
fn is_contributory(vector: u8) -> bool {
    matches!(vector, vector::DE | vector::TS | vector::NP | vector::SS | vector::GP)
}

fn makes_double_fault(first: u8, second: u8) -> bool {
    is_contributory(first) && is_contributory(second)
        || first == vector::PF && (second == vector::PF || is_contributory(second))
}

/// Gate of an interrupt, checked.
struct InterruptGate {
    target: Descriptor,
    selector: u16,
    offset: u64,
    /// Bytes per push.
    size: u32,
    /// Clears IF.
    masks: bool,
    /// Interrupt stack table entry; 0 = none.
    stack_table: u8,
}

impl Cpu {
    /// Delivers an exception at the current RIP; what goes wrong on the way becomes the next one.
    pub(crate) fn deliver_exception(&mut self, exception: Exception) -> Result<(), TripleFault> {
        self.events.exceptions += 1;
        // Counts like an instruction, so that a handler that faults for ever uses up its limit.
        self.budget -= 1;
        let mut current = exception;
        loop {
            if current.vector == vector::PF {
                self.cr2 = current.payload;
            }
            if current.vector == vector::DB {
                self.dr[4] |= current.payload;
                // GD is cleared on entry to the handler, so that it can reach the debug registers.
                self.dr[5] &= !(1 << 13);
            }
            match self.enter_handler(current.vector, current.error_code, Origin::Exception, self.rip()) {
                Ok(()) => return Ok(()),
                Err(Fault) if current.vector == vector::DF => return Err(TripleFault),
                Err(Fault) if makes_double_fault(current.vector, self.fault.vector) => {
                    current = Exception { vector: vector::DF, error_code: Some(0), payload: 0 };
                }
                Err(Fault) => current = self.fault,
            }
        }
    }

    /// Delivers an interrupt or NMI at the current RIP.
    pub(crate) fn deliver_interrupt(&mut self, vector: u8) -> Result<(), TripleFault> {
        self.events.interrupts += 1;
        match self.enter_handler(vector, None, Origin::External, self.rip()) {
            Ok(()) => Ok(()),
            Err(Fault) => self.deliver_exception(self.fault),
        }
    }

    /// Enters the handler of `vector`; `return_rip` is pushed. On a fault nothing changed.
    pub(crate) fn enter_handler(
        &mut self,
        vector: u8,
        error_code: Option<u32>,
        origin: Origin,
        return_rip: u64,
    ) -> Result<(), Fault> {
        if self.cr0 & 1 == 0 {
            return self.enter_real_handler(vector, return_rip);
        }
        let ext = u32::from(origin != Origin::Software);
        let gate = self.interrupt_gate(vector, origin, ext)?;
        let flags = self.flags_to_push(vector, origin);
        let v86 = self.system_flags & rflags::VM != 0;
        let inward = !gate.target.is_conforming() && gate.target.dpl() < self.cpl;
        let cpl = if inward { gate.target.dpl() } else { self.cpl };
        let mut frame = if self.is_lma() {
            self.long_frame(&gate, cpl, inward)?
        } else if inward {
            self.tss_stack(cpl, false)?
        } else {
            StackFrame::current(self)
        };
        let size = gate.size;
        if v86 {
            for seg in [GS, FS, DS, ES] {
                frame.push(self, size, u64::from(self.segments[seg].selector))?;
            }
        }
        if inward || self.is_lma() {
            frame.push(self, size, u64::from(self.segments[SS].selector))?;
            frame.push(self, size, self.regs[4])?;
        }
        frame.push(self, size, flags)?;
        frame.push(self, size, u64::from(self.segments[CS].selector))?;
        frame.push(self, size, return_rip)?;
        if let Some(code) = error_code {
            frame.push(self, size, u64::from(code))?;
        }
        self.commit_handler(gate, frame, cpl, inward || self.is_lma(), v86)
    }

    fn commit_handler(
        &mut self,
        gate: InterruptGate,
        frame: StackFrame,
        cpl: u8,
        new_stack: bool,
        v86: bool,
    ) -> Result<(), Fault> {
        let mut target = gate.target;
        self.mark_accessed(&mut target)?;
        let ss = self.segments[SS];
        frame.commit(self);
        if !new_stack || cpl == self.cpl && self.is_lma() && !v86 {
            // The same level keeps its stack segment.
            self.segments[SS] = ss;
        }
        let cleared = rflags::TF | rflags::NT | rflags::RF | rflags::VM;
        self.system_flags &= !cleared;
        if gate.masks {
            self.system_flags &= !rflags::IF;
        }
        if v86 {
            for seg in [ES, DS, FS, GS] {
                self.segments[seg] = SegmentRegister::default();
            }
        }
        self.set_code_segment(target.register(gate.selector & !3 | u16::from(cpl)), cpl);
        self.set_rip(gate.offset);
        Ok(())
    }

    /// The flags that a handler finds on its stack: faults set RF, so that IRET does not meet the same instruction
    /// breakpoint again.
    fn flags_to_push(&self, vector: u8, origin: Origin) -> u64 {
        let fault = origin == Origin::Exception && vector != vector::DB;
        self.rflags() | if fault { rflags::RF } else { 0 }
    }

    fn enter_real_handler(&mut self, vector: u8, return_rip: u64) -> Result<(), Fault> {
        let offset = u64::from(vector) * 4;
        if offset + 3 > u64::from(self.idtr.limit) {
            return Err(self.raise_code(vector::GP, 0));
        }
        let entry = self.load_system(self.idtr.base.wrapping_add(offset), 4)?;
        let mut frame = StackFrame::current(self);
        let flags = self.rflags();
        frame.push(self, 2, flags & 0xffff)?;
        frame.push(self, 2, u64::from(self.segments[CS].selector))?;
        frame.push(self, 2, return_rip & 0xffff)?;
        frame.commit(self);
        self.system_flags &= !(rflags::IF | rflags::TF | rflags::AC | rflags::RF);
        let selector = (entry >> 16) as u16;
        let register = self.segments[CS].real_mode_code(selector);
        self.set_code_segment(register, self.cpl);
        self.set_rip(entry & 0xffff);
        Ok(())
    }

    fn interrupt_gate(&mut self, vector: u8, origin: Origin, ext: u32) -> Result<InterruptGate, Fault> {
        let code = u32::from(vector) * 8 + 2 + ext;
        let entry_size = if self.is_lma() { 16 } else { 8 };
        let offset = u64::from(vector) * entry_size;
        if offset + entry_size - 1 > u64::from(self.idtr.limit) {
            return Err(self.raise_code(vector::GP, code));
        }
        let address = self.idtr.base.wrapping_add(offset);
        let raw = self.load_system(address, 8)?;
        let high = if self.is_lma() { self.load_system(address.wrapping_add(8), 8)? } else { 0 };
        let gate = Descriptor { raw, high, address };
        let kind = gate.kind();
        let wide = matches!(kind, system::INTERRUPT_GATE | system::TRAP_GATE);
        let narrow = matches!(kind, system::INTERRUPT_GATE_16 | system::TRAP_GATE_16) && !self.is_lma();
        // A task gate would be a hardware task switch: refused like any wrong type.
        let wrong = gate.is_segment() || !(wide || narrow);
        if wrong || origin == Origin::Software && gate.dpl() < self.cpl {
            return Err(self.raise_code(vector::GP, code));
        }
        if !gate.is_present() {
            return Err(self.raise_code(vector::NP, code));
        }
        let target = self.interrupt_target(&gate, ext)?;
        let offset = if wide { gate.gate_offset() } else { gate.gate_offset() & 0xffff };
        Ok(InterruptGate {
            target,
            selector: gate.gate_selector(),
            offset,
            size: if self.is_lma() { 8 } else { 2 << u32::from(wide) },
            masks: kind & 1 == 0,
            stack_table: if self.is_lma() { (raw >> 32 & 7) as u8 } else { 0 },
        })
    }

    /// The code segment that a gate names.
    fn interrupt_target(&mut self, gate: &Descriptor, ext: u32) -> Result<Descriptor, Fault> {
        let selector = gate.gate_selector();
        if selector & !3 == 0 {
            return Err(self.raise_code(vector::GP, ext));
        }
        let code = u32::from(selector & !3) | ext;
        let Some(target) = self.find_descriptor(selector)? else {
            return Err(self.raise_code(vector::GP, code));
        };
        let v86 = self.system_flags & rflags::VM != 0;
        let privilege_fits = target.dpl() <= self.cpl && !(v86 && (target.is_conforming() || target.dpl() != 0));
        let long_rule = !self.is_lma() || target.is_long() && !target.is_big();
        if !target.is_code() || !privilege_fits || !long_rule {
            return Err(self.raise_code(vector::GP, code));
        }
        if !target.is_present() {
            return Err(self.raise_code(vector::NP, code));
        }
        Ok(target)
    }

    /// The stack of a handler in long mode.
    fn long_frame(&mut self, gate: &InterruptGate, cpl: u8, inward: bool) -> Result<StackFrame, Fault> {
        let mut frame = if gate.stack_table != 0 {
            let sp = self.interrupt_stack(gate.stack_table)?;
            self.long_stack(sp, cpl)?
        } else if inward {
            self.tss_stack(cpl, true)?
        } else {
            self.long_stack(self.regs[4], cpl)?
        };
        frame.align();
        Ok(frame)
    }
}
