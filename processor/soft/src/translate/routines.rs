//! The code at the start of the arena: into translated code, out of it, and calls of interpreter handlers.

use super::assembler::{Assembler, Fixup, Mem, host};
use super::registers::{ADDRESS, CPU, GUEST_RSP, VALUE, field, pinned, slot};
use super::targets::{self, Target};
use crate::cpu::Cpu;
use crate::op::{Flow, Op, OpPointer};
use std::mem::offset_of;
use std::ptr::NonNull;

/// Why translated code returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// RIP is the target of a jump that leads to no translated code yet; `Cpu::exit_site` tells which jump, if it can
    /// be connected.
    Dispatch,
    /// RIP is where to go on; look around first.
    Retry,
    /// A handler called by [`call_out`] returned this.
    Flow(Flow),
}

const DISPATCH: u32 = 1;
const RETRY: u32 = 2;
const FLOWS: u32 = 3;

/// All flows, by number.
const BY_NUMBER: [Flow; 9] = [
    Flow::Next,
    Flow::Taken,
    Flow::NotTaken,
    Flow::Indirect,
    Flow::Sync,
    Flow::Far,
    Flow::Again,
    Flow::Stale,
    Flow::Fault,
];

impl Exit {
    /// From what the code returned.
    pub fn from_code(code: u32) -> Self {
        match code {
            DISPATCH => Self::Dispatch,
            RETRY => Self::Retry,
            _ => Self::Flow(BY_NUMBER[(code.wrapping_sub(FLOWS) as usize).min(BY_NUMBER.len() - 1)]),
        }
    }
}

/// Offsets of the routines in the arena.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Routines {
    /// `extern "sysv64" fn(cpu, code, rip) -> u32`.
    pub enter: u32,
    /// Called with an op's address in RAX: its handler does the instruction. Returns if that is complete and nothing
    /// else happened.
    pub call_out: u32,
    /// RAX is where to go on: to translated code if the target table knows it, else [`Exit::Dispatch`].
    pub find_target: u32,
    /// RAX is where to go on: [`Exit::Dispatch`] without a site.
    pub dispatch: u32,
    /// As `dispatch`; the site is set.
    pub dispatch_site: u32,
    /// RAX is where to go on: [`Exit::Retry`].
    pub retry: u32,
}

/// How the arena is entered.
pub(super) type Enter = unsafe extern "sysv64" fn(cpu: *mut Cpu, code: *const u8, rip: u64) -> u32;

/// Host registers that the caller of [`Routines::enter`] keeps.
const SAVED: [u8; 6] = [host::RBX, host::RBP, host::R12, host::R13, host::R14, host::R15];

fn push(asm: &mut Assembler, register: u8) {
    if register >= 8 {
        asm.put(&[0x41]);
    }
    asm.put(&[0x50 | register & 7]);
}

fn pop(asm: &mut Assembler, register: u8) {
    if register >= 8 {
        asm.put(&[0x41]);
    }
    asm.put(&[0x58 | register & 7]);
}

fn spill(asm: &mut Assembler) {
    for (host, guest) in pinned() {
        asm.store(slot(guest), host);
    }
}

fn reload(asm: &mut Assembler) {
    for (host, guest) in pinned() {
        asm.load(host, slot(guest));
    }
}

/// Emits the routines.
pub(super) fn emit(asm: &mut Assembler) -> Routines {
    let at = |asm: &Assembler| asm.origin + asm.here() as u32;
    let mut routines = Routines { enter: at(asm), ..Routines::default() };
    for register in SAVED {
        push(asm, register);
    }
    // With the return address and six registers: SUB RSP, 8 aligns the stack.
    asm.put(&[0x48, 0x83, 0xec, 0x08]);
    asm.mov(CPU, host::RDI);
    asm.mov(ADDRESS, host::RSI);
    asm.mov(VALUE, host::RDX);
    reload(asm);
    // JMP R14.
    asm.put(&[0x41, 0xff, 0xe6]);

    let exit = at(asm);
    spill(asm);
    let exit_spilled = at(asm);
    asm.put(&[0x48, 0x83, 0xc4, 0x08]);
    for register in SAVED.into_iter().rev() {
        pop(asm, register);
    }
    asm.put(&[0xc3]);

    routines.call_out = at(asm);
    spill(asm);
    asm.mov(host::RDI, CPU);
    asm.mov(host::RSI, VALUE);
    asm.put(&[0x48, 0x83, 0xec, 0x08]);
    asm.mov_imm64(VALUE, call_out as *const () as u64);
    // CALL RAX; ADD RSP, 8; TEST EAX, EAX.
    asm.put(&[0xff, 0xd0, 0x48, 0x83, 0xc4, 0x08, 0x85, 0xc0]);
    let leave = asm.jcc(5);
    reload(asm);
    asm.put(&[0xc3]);
    asm.bind(leave);
    // The return address into the block is not needed any more.
    asm.put(&[0x48, 0x83, 0xc4, 0x08]);
    asm.jmp_arena(exit_spilled);

    routines.find_target = at(asm);
    let miss = emit_find_target(asm, 0);
    asm.bind(miss);
    routines.dispatch = at(asm);
    asm.store_imm32(field(offset_of!(Cpu, exit_site)), 0);
    routines.dispatch_site = at(asm);
    asm.store(slot(Cpu::RIP), VALUE);
    asm.mov_imm32(VALUE, DISPATCH);
    asm.jmp_arena(exit);

    routines.retry = at(asm);
    asm.store(slot(Cpu::RIP), VALUE);
    asm.mov_imm32(VALUE, RETRY);
    asm.jmp_arena(exit);
    routines
}

/// Jumps to the code for the address in RAX if the target table knows it; then the stack pointer moves by `stack`.
/// Returns the jump for when it does not.
pub(super) fn emit_find_target(asm: &mut Assembler, stack: i32) -> Fixup {
    // MOV R14D, EAX; SHR R14D, 12; XOR R14D, EAX; AND R14D, mask; SHL R14D, 4.
    asm.put(&[0x41, 0x89, 0xc6, 0x41, 0xc1, 0xee, 0x0c, 0x41, 0x31, 0xc6, 0x41, 0x81, 0xe6]);
    asm.put(&(targets::MASK as u32).to_le_bytes());
    asm.put(&[0x41, 0xc1, 0xe6, 0x04]);
    let table = offset_of!(Cpu, targets) as i32;
    let entry = |offset: usize| Mem::indexed(CPU, ADDRESS, 0, table + offset as i32);
    asm.memory(true, &[0x3b], VALUE, entry(offset_of!(Target, rip)));
    let miss = asm.jcc(5);
    if stack != 0 {
        asm.lea(GUEST_RSP, Mem::at(GUEST_RSP, stack));
    }
    asm.memory(false, &[0xff], 4, entry(offset_of!(Target, code)));
    miss
}

/// The op behind an op for [`call_out`]: what the run loop must know of the block. `offset` is the block's place in its
/// page.
pub(super) fn end_op(index: usize, count: usize, offset: u64) -> Op {
    let mut op = crate::ops::control::end_of_block(count as u64, crate::cpu::Mode(0));
    op.handler = one_done;
    op.offset = index as u16;
    op.disp = offset as i32;
    op
}

/// Ends the run of handlers behind one instruction.
fn one_done(_: &mut Cpu, _: OpPointer) -> Flow {
    Flow::Next
}

/// Runs one handler for translated code. Returns 0 to go on behind the instruction.
///
/// # Safety
/// `cpu` is the VP that runs translated code on this thread; `op` is an op with an [`end_op`] behind it.
unsafe extern "sysv64" fn call_out(cpu: *mut Cpu, op: *const Op) -> u32 {
    // SAFETY: translated code holds no reference; the caller of `enter` does not use its own meanwhile.
    let cpu = unsafe { &mut *cpu };
    // SAFETY: as the caller promises.
    let (pointer, end) = unsafe { (OpPointer(NonNull::new_unchecked(op.cast_mut())), &*op.add(1)) };
    cpu.close_slice();
    if let Some(translator) = &mut cpu.translator {
        translator.counters.handler_calls += 1;
    }
    cpu.set_rip(cpu.code_page.wrapping_add(end.disp as u64));
    let flow = pointer.run(cpu);
    if flow != Flow::Next {
        return FLOWS + flow as u32;
    }
    if cpu.cache.has_dead_code() {
        // Perhaps this very block.
        cpu.last_op = Some(pointer);
        return FLOWS + Flow::Sync as u32;
    }
    cpu.open_slice();
    0
}
