//! Both tiers side by side: each block runs in the interpreter, is undone, runs as translated code, and the outcomes are
//! compared. For one VP; blocks with effects that cannot be undone (devices, mode changes, handlers that are no plain
//! data processing) run in the interpreter alone.

use super::routines::Exit;
use super::run::Returned;
use crate::cpu::Cpu;
use crate::decode::cache::BlockPointer;
use crate::exception::TripleFault;
use crate::flags::Flags;
use crate::op::Flow;
use bulkhead_native::Vector;
use iced_x86::{Decoder, Formatter, IntelFormatter};
use std::fmt::Write;

/// Bytes of guest memory that a block wrote.
pub(crate) struct Written {
    host: *mut u8,
    old: Vec<u8>,
}

/// What blocks change.
struct Snapshot {
    regs: [u64; 32],
    flags: Flags,
    system_flags: u64,
    mxcsr: u32,
    vectors: [Vector; 16],
    budget: i64,
}

const NAMES: [&str; 18] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "",
    "rip",
];

impl Snapshot {
    fn take(cpu: &Cpu) -> Self {
        Self {
            regs: cpu.regs,
            flags: cpu.flags,
            system_flags: cpu.system_flags,
            mxcsr: cpu.native.mxcsr(),
            vectors: cpu.native.vector,
            budget: cpu.budget,
        }
    }

    fn put_back(&self, cpu: &mut Cpu) {
        cpu.regs = self.regs;
        cpu.flags = self.flags;
        cpu.system_flags = self.system_flags;
        // It was there before.
        let _ = cpu.native.set_mxcsr(self.mxcsr);
        cpu.native.vector = self.vectors;
        cpu.budget = self.budget;
    }

    /// What differs, one line each.
    fn differences(&self, other: &Self) -> String {
        let mut text = String::new();
        let mut note = |name: &str, a: u128, b: u128| {
            if a != b {
                let _ = writeln!(text, "  {name}: interpreter {a:#x}, translator {b:#x}");
            }
        };
        for (index, name) in NAMES.iter().enumerate() {
            note(name, self.regs[index].into(), other.regs[index].into());
        }
        note("flags", self.flags.get().into(), other.flags.get().into());
        note("system flags", self.system_flags.into(), other.system_flags.into());
        note("mxcsr", self.mxcsr.into(), other.mxcsr.into());
        for index in 0..16 {
            let half = |vector: &Vector, high: usize| {
                u128::from_le_bytes(std::array::from_fn(|byte| vector.0[16 * high + byte]))
            };
            for high in 0..2 {
                let name = format!("ymm{index} half {high}");
                note(&name, half(&self.vectors[index], high), half(&other.vectors[index], high));
            }
        }
        text
    }
}

impl Cpu {
    /// Remembers bytes of guest memory that are about to be written, while a block runs that will be undone.
    #[cold]
    pub(crate) fn remember_old(&mut self, host: *mut u8, len: usize) {
        if let Some(undo) = &mut self.undo {
            let mut old = vec![0; len];
            crate::memory::Span::new(host, len).read(&mut old);
            undo.push(Written { host, old });
        }
    }

    /// Runs a block in both tiers. A difference is left in `Cpu::lockstep_report`.
    pub(crate) fn run_lockstep(&mut self, block: BlockPointer) -> Result<Returned, TripleFault> {
        let before = Snapshot::take(self);
        let (serial, count) = (block.get().serial, block.get().count);
        let devices = (self.events.mmio, self.events.ports);
        self.undo = Some(Vec::new());
        let (tlb, slow) = (self.tlb, std::mem::replace(&mut self.slow_data, true));
        self.tlb = self.mmu.none();
        let flow = self.run_block(block);
        (self.tlb, self.slow_data) = (tlb, slow);
        let undo = self.undo.take().unwrap_or_default();
        let plain = matches!(flow, Flow::Taken | Flow::NotTaken | Flow::Indirect | Flow::Fault);
        let alive = block.get().serial == serial && !self.cache.has_dead_code();
        if !plain || !alive || !block.is_verifiable() || devices != (self.events.mmio, self.events.ports) {
            self.finish(block, flow)?;
            return Ok(Returned::Look);
        }
        let wanted = Snapshot::take(self);
        let fault = (flow == Flow::Fault).then(|| (self.fault, self.last_offset()));
        let mut new = Vec::new();
        for written in &undo {
            new.push(read(written));
        }
        for written in undo.iter().rev() {
            crate::memory::Span::new(written.host, written.old.len()).write(&written.old);
        }
        before.put_back(self);
        let Some((enter, code)) = self.code_of(block) else { return Ok(Returned::Look) };
        self.budget -= i64::from(count);
        self.slice = count as i32;
        // SAFETY: as in `run_translated`.
        let code = unsafe { enter(self, code, before.regs[usize::from(Self::RIP)]) };
        self.close_slice();
        let exit = Exit::from_code(code);
        let mut found = Snapshot::take(self);
        if fault.is_some() {
            // Counted differently until the fault is delivered.
            found.budget = wanted.budget;
        }
        let mut text = wanted.differences(&found);
        let found_fault = (exit == Exit::Flow(Flow::Fault)).then(|| (self.fault, self.last_offset()));
        if fault != found_fault {
            let _ = writeln!(text, "  fault: interpreter {fault:x?}, translator {found_fault:x?}");
        }
        for (written, wanted) in undo.iter().zip(&new) {
            let found = read(written);
            if found != *wanted {
                let _ = writeln!(text, "  memory: interpreter {wanted:x?}, translator {found:x?}");
            }
        }
        if !text.is_empty() {
            self.lockstep_report = Some(self.report(block, &before, &text));
            return Ok(Returned::Look);
        }
        match exit {
            Exit::Retry => Ok(Returned::Look),
            Exit::Dispatch => self.dispatch(),
            Exit::Flow(flow) => self.finish_handler(flow).map(|()| Returned::Look),
        }
    }

    /// Place in its block of the op that ended the block's run.
    fn last_offset(&self) -> Option<u16> {
        // SAFETY: set by the handler that just ended; nothing was decoded since.
        self.last_op.map(|op| unsafe { op.0.as_ref() }.offset)
    }

    fn report(&self, block: BlockPointer, before: &Snapshot, differences: &str) -> String {
        let rip = before.regs[usize::from(Self::RIP)];
        let mut text = format!("the tiers differ after the block at {rip:#x}:\n{differences}before:\n");
        for (name, value) in NAMES.iter().zip(before.regs) {
            if !name.is_empty() {
                let _ = writeln!(text, "  {name} {value:#x}");
            }
        }
        let _ = writeln!(text, "  flags {:#x}\ncode:", before.flags.get());
        let mut decoder = Decoder::with_ip(64, &block.get().bytes, rip, self.features.decoder_options);
        let mut formatter = IntelFormatter::new();
        while decoder.can_decode() {
            let instruction = decoder.decode();
            let mut line = String::new();
            formatter.format(&instruction, &mut line);
            let _ = writeln!(text, "  {:#x} {line}", instruction.ip());
        }
        text
    }
}

fn read(written: &Written) -> Vec<u8> {
    let mut bytes = vec![0; written.old.len()];
    crate::memory::Span::new(written.host, bytes.len()).read(&mut bytes);
    bytes
}
