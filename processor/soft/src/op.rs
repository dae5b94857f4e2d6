//! `Op`: one decoded instruction, and the handler protocol.

use crate::cpu::Cpu;
use std::ptr::NonNull;

/// What an instruction's handler tells the block loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Flow {
    /// Done; go on with the next op of the block.
    Next,
    /// A direct near branch went to its target; `rip` is the target. Chained through link 0.
    Taken,
    /// The block ends and execution goes on behind it; `rip` is that address. Chained through link 1.
    NotTaken,
    /// A near branch to a computed target; `rip` is the target.
    Indirect,
    /// Done, but something changed that blocks depend on (mode, paging, interrupts): leave the block, look around,
    /// go on behind the instruction. The block loop sets `rip`.
    Sync,
    /// Done; the handler set `rip` itself, and anything may have changed (far transfers, SYSCALL, IRET).
    Far,
    /// Not done, but all that was done is in the registers: look around, then begin the instruction again (REP).
    Again,
    /// The op belongs to a dead block and was not executed: decode it again.
    Stale,
    /// An exception; its details are in [`Cpu::fault`]. The instruction had no effect.
    Fault,
}

/// An exception was raised: `Cpu::fault` holds it. Handlers pass it on with `?`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault;

/// The semantics of an instruction, as written in `ops/`. Mark them `#[inline(always)]`: [`handler`] wraps each into
/// the function that the block loop runs. `Result<(), Fault>` handlers are allowed as well: [`fallible`].
pub(crate) type Handler = fn(&mut Cpu, OpPointer) -> Flow;

/// A decoded instruction. `reg`, `rm`, `base` and `index` are register numbers of [`Cpu::regs`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Op {
    /// Executes it, and then the ops behind it.
    pub handler: Handler,
    /// Immediate, sign-extended to the operand size; for near branches the target relative to the block's first byte;
    /// for 64-bit absolute addresses (MOV moffs) the address.
    pub imm: u64,
    /// Displacement. For RIP-relative operands relative to the block's first byte, `base` being [`Cpu::RIP`].
    pub disp: i32,
    /// First register operand. 8-bit: 0–15 low bytes, 16–19 AH CH DH BH.
    pub reg: u8,
    /// Second register operand.
    pub rm: u8,
    /// Base register of the memory operand; [`Cpu::ZERO`] if none.
    pub base: u8,
    /// Index register of the memory operand; [`Cpu::ZERO`] if none.
    pub index: u8,
    /// Shift of the index: 0–3.
    pub scale: u8,
    /// Segment of the memory operand: ES CS SS DS FS GS.
    pub seg: u8,
    /// Length in bytes.
    pub len: u8,
    /// Address size in bytes (2, 4, 8).
    pub address_size: u8,
    /// Offset from the block's first byte.
    pub offset: u16,
    /// Whatever the group wants: second immediate, third register, operand kind.
    pub extra: u16,
}

const _: () = assert!(size_of::<Op>() == 32);

/// An op in its block: the ops behind it follow in memory, the last one never returns [`Flow::Next`].
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct OpPointer(pub(crate) NonNull<Op>);

impl OpPointer {
    /// Runs the op and those behind it.
    #[inline(always)]
    pub fn run(self, cpu: &mut Cpu) -> Flow {
        // SAFETY: blocks live until the block loop, at a block boundary, frees them.
        (unsafe { self.0.as_ref() }.handler)(cpu, self)
    }
}

/// Wraps a semantic function, which must be a plain `fn` item (size zero), into a [`Handler`].
pub(crate) fn handler<F: Fn(&mut Cpu, &Op) -> Flow + Copy>(_: F) -> Handler {
    const { assert!(size_of::<F>() == 0) };
    run_then_next::<F>
}

/// As [`handler`], for `fn(&mut Cpu, &Op) -> Result<(), Fault>`.
pub(crate) fn fallible<F: Fn(&mut Cpu, &Op) -> Result<(), Fault> + Copy>(_: F) -> Handler {
    const { assert!(size_of::<F>() == 0) };
    run_fallible_then_next::<F>
}

/// Two instances of one semantic function: `fast` with a [`crate::memory::Address`] that takes TLB hits only, and
/// `complete`. If the fast one fails, which must have no effect, the complete one does the instruction from its
/// beginning. So the fast one calls nothing and needs no stack frame.
pub(crate) fn retrying<F, C>(_: F, _: C) -> Handler
where
    F: Fn(&mut Cpu, &Op) -> Result<(), Fault> + Copy,
    C: Fn(&mut Cpu, &Op) -> Result<(), Fault> + Copy,
{
    run_fast_then_next::<F, C>
}

/// The complete instance alone, for what has no fast one.
pub(crate) fn complete<C: Fn(&mut Cpu, &Op) -> Result<(), Fault> + Copy>(_: C) -> Handler {
    run_complete_then_next::<C>
}

/// As [`retrying`], for `fn(&mut Cpu, &Op) -> Flow`.
pub(crate) fn retrying_flow<F, C>(_: F, _: C) -> Handler
where
    F: Fn(&mut Cpu, &Op) -> Flow + Copy,
    C: Fn(&mut Cpu, &Op) -> Flow + Copy,
{
    run_fast_flow_then_next::<F, C>
}

/// As [`complete`], for `fn(&mut Cpu, &Op) -> Flow`.
pub(crate) fn complete_flow<C: Fn(&mut Cpu, &Op) -> Flow + Copy>(_: C) -> Handler {
    run_complete_flow_then_next::<C>
}

/// `first` of an op and `jump` of the op behind it, which ends the block, in one handler.
pub(crate) fn fused<F, J>(_: F, _: J) -> Handler
where
    F: Fn(&mut Cpu, &Op) -> Flow + Copy,
    J: Fn(&mut Cpu, &Op) -> Flow + Copy,
{
    run_fused::<F, J>
}

/// As [`fused`], with a first op as in [`retrying`]: the complete instance does it alone.
pub(crate) fn fused_retrying<F, C, J>(_: F, _: C, _: J) -> Handler
where
    F: Fn(&mut Cpu, &Op) -> Result<(), Fault> + Copy,
    C: Fn(&mut Cpu, &Op) -> Result<(), Fault> + Copy,
    J: Fn(&mut Cpu, &Op) -> Flow + Copy,
{
    run_fused_fast::<F, C, J>
}

/// The one value of a zero-sized function item.
#[inline(always)]
fn item<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0) };
    // SAFETY: a value of size zero that exists (a caller of `handler` had one) can be read from any aligned pointer.
    unsafe { NonNull::<F>::dangling().read() }
}

/// Ends in a sibling call to the next op's handler, which optimized builds turn into a jump. Others use at most as
/// many frames as a block has ops.
fn run_then_next<F: Fn(&mut Cpu, &Op) -> Flow + Copy>(cpu: &mut Cpu, op: OpPointer) -> Flow {
    // SAFETY: the op is in a live block; nothing writes it while a reference exists (patching touches later ops only).
    let result = item::<F>()(cpu, unsafe { op.0.as_ref() });
    if result == Flow::Next {
        // SAFETY: the last op of a block never returns `Next`, so there is one behind this.
        return OpPointer(unsafe { op.0.add(1) }).run(cpu);
    }
    cpu.last_op = Some(op);
    result
}

#[inline]
fn run_fallible_then_next<F: Fn(&mut Cpu, &Op) -> Result<(), Fault> + Copy>(cpu: &mut Cpu, op: OpPointer) -> Flow {
    // SAFETY: as in `run_then_next`.
    if item::<F>()(cpu, unsafe { op.0.as_ref() }).is_ok() {
        // SAFETY: as in `run_then_next`.
        return OpPointer(unsafe { op.0.add(1) }).run(cpu);
    }
    cpu.last_op = Some(op);
    Flow::Fault
}

fn run_fast_then_next<F, C>(cpu: &mut Cpu, op: OpPointer) -> Flow
where
    F: Fn(&mut Cpu, &Op) -> Result<(), Fault> + Copy,
    C: Fn(&mut Cpu, &Op) -> Result<(), Fault> + Copy,
{
    // SAFETY: as in `run_then_next`.
    if item::<F>()(cpu, unsafe { op.0.as_ref() }).is_ok() {
        // SAFETY: as in `run_then_next`.
        return OpPointer(unsafe { op.0.add(1) }).run(cpu);
    }
    run_complete_then_next::<C>(cpu, op)
}

/// Out of line, so that its stack frame is not the fast instance's as well.
#[inline(never)]
fn run_complete_then_next<C: Fn(&mut Cpu, &Op) -> Result<(), Fault> + Copy>(cpu: &mut Cpu, op: OpPointer) -> Flow {
    run_fallible_then_next::<C>(cpu, op)
}

fn run_fast_flow_then_next<F, C>(cpu: &mut Cpu, op: OpPointer) -> Flow
where
    F: Fn(&mut Cpu, &Op) -> Flow + Copy,
    C: Fn(&mut Cpu, &Op) -> Flow + Copy,
{
    // SAFETY: as in `run_then_next`.
    let result = item::<F>()(cpu, unsafe { op.0.as_ref() });
    if result == Flow::Fault {
        return run_complete_flow_then_next::<C>(cpu, op);
    }
    if result == Flow::Next {
        // SAFETY: as in `run_then_next`.
        return OpPointer(unsafe { op.0.add(1) }).run(cpu);
    }
    cpu.last_op = Some(op);
    result
}

/// See [`run_complete_then_next`].
#[inline(never)]
fn run_complete_flow_then_next<C: Fn(&mut Cpu, &Op) -> Flow + Copy>(cpu: &mut Cpu, op: OpPointer) -> Flow {
    run_then_next::<C>(cpu, op)
}

fn run_fused<F, J>(cpu: &mut Cpu, op: OpPointer) -> Flow
where
    F: Fn(&mut Cpu, &Op) -> Flow + Copy,
    J: Fn(&mut Cpu, &Op) -> Flow + Copy,
{
    // SAFETY: as in `run_then_next`. `first` only examines registers: its flow is always `Next`.
    item::<F>()(cpu, unsafe { op.0.as_ref() });
    run_jump::<J>(cpu, op)
}

fn run_fused_fast<F, C, J>(cpu: &mut Cpu, op: OpPointer) -> Flow
where
    F: Fn(&mut Cpu, &Op) -> Result<(), Fault> + Copy,
    C: Fn(&mut Cpu, &Op) -> Result<(), Fault> + Copy,
    J: Fn(&mut Cpu, &Op) -> Flow + Copy,
{
    // SAFETY: as in `run_then_next`.
    if item::<F>()(cpu, unsafe { op.0.as_ref() }).is_ok() {
        return run_jump::<J>(cpu, op);
    }
    run_complete_then_next::<C>(cpu, op)
}

/// The jump behind a fused op.
#[inline(always)]
fn run_jump<J: Fn(&mut Cpu, &Op) -> Flow + Copy>(cpu: &mut Cpu, op: OpPointer) -> Flow {
    // SAFETY: only ops with a jump behind them in their block are fused.
    let jump = OpPointer(unsafe { op.0.add(1) });
    // SAFETY: as in `run_then_next`.
    let flow = item::<J>()(cpu, unsafe { jump.0.as_ref() });
    cpu.last_op = Some(jump);
    flow
}
