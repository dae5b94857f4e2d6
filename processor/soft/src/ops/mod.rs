//! The semantics of instructions: one module per group, each with a `select`.

use crate::cpu::{Cpu, Mode, vector};
use crate::op::{Flow, Handler, Op, handler};
use iced_x86::Instruction;

/// What a group's `select` sees.
pub(crate) struct Selection<'a> {
    /// The instruction.
    pub instruction: &'a Instruction,
    /// The block's mode.
    pub mode: Mode,
    /// How the memory operand (or the stack, for instructions that only have an implicit stack operand) is addressed.
    pub address: AddressKind,
    /// The instruction's bytes.
    pub bytes: &'a [u8],
    /// Random numbers come from the reactor.
    pub deterministic: bool,
    /// Native stubs of the partition.
    pub stubs: &'a NativeTable,
}

/// The types of [`crate::memory::Address`], as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressKind {
    /// [`Flat`].
    Flat,
    /// [`Flat`] without an index register.
    FlatBase,
    /// [`Flat32`].
    Flat32,
    /// [`Full`].
    Full,
}

/// `by_address!(selection.address, A => fallible(load::<T, A>))`: the handler for the right
/// [`crate::memory::Address`] type. `fallible` and `handler` get a fast instance and a complete one; any other
/// expression is evaluated with a complete type.
macro_rules! by_address {
    ($kind:expr, $a:ident => fallible($f:expr)) => {
        $crate::ops::by_address!(@ $kind, $a, $f, retrying, complete)
    };
    ($kind:expr, $a:ident => handler($f:expr)) => {
        $crate::ops::by_address!(@ $kind, $a, $f, retrying_flow, complete_flow)
    };
    (@ $kind:expr, $a:ident, $f:expr, $retrying:ident, $complete:ident) => {{
        let complete = {
            type $a = $crate::memory::Full;
            $f
        };
        match $kind {
            $crate::ops::AddressKind::Flat => {
                type $a = $crate::memory::FastFlat;
                $crate::op::$retrying($f, complete)
            }
            $crate::ops::AddressKind::FlatBase => {
                type $a = $crate::memory::FastBase;
                $crate::op::$retrying($f, complete)
            }
            $crate::ops::AddressKind::Flat32 => {
                type $a = $crate::memory::FastFlat32;
                $crate::op::$retrying($f, complete)
            }
            $crate::ops::AddressKind::Full => $crate::op::$complete(complete),
        }
    }};
    ($kind:expr, $a:ident => $body:expr) => {
        match $kind {
            $crate::ops::AddressKind::Flat | $crate::ops::AddressKind::FlatBase => {
                type $a = $crate::memory::Flat;
                $body
            }
            $crate::ops::AddressKind::Flat32 => {
                type $a = $crate::memory::Flat32;
                $body
            }
            $crate::ops::AddressKind::Full => {
                type $a = $crate::memory::Full;
                $body
            }
        }
    };
}
pub(crate) use by_address;

mod absolute;
mod arithmetic;
mod bits;
mod condition;
pub(crate) mod control;
mod decimal;
mod exchange;
mod float_state;
mod form;
pub(crate) mod fused;
mod interrupt_flag;
mod io;
mod multiply;
mod native;
mod random;
mod segment;
mod shift;
mod stack;
mod string;
mod system;
mod transfer;
mod word;

pub(crate) use native::NativeTable;

/// A group's `select`: the handler of an instruction of the group, or `None`. May adjust the op's fields.
type Select = fn(&Selection, &mut Op) -> Option<Handler>;

/// All groups, the most frequent first.
const GROUPS: &[Select] = &[
    control::select,
    transfer::select,
    arithmetic::select,
    stack::select,
    shift::select,
    condition::select,
    bits::select,
    multiply::select,
    exchange::select,
    string::select,
    interrupt_flag::select,
    segment::select,
    system::select,
    io::select,
    float_state::select,
    random::select,
    native::select,
    decimal::select,
];

/// The handler of an instruction; `None` if no group knows it.
pub(crate) fn select(selection: &Selection, op: &mut Op) -> Option<Handler> {
    if op.base == Cpu::ABSOLUTE {
        return absolute::select(selection, op);
    }
    GROUPS.iter().find_map(|select| select(selection, op))
}

/// Whether the block must end behind an instruction that is no control transfer: it may change what later instructions
/// are decoded for, or interrupts must be looked at.
pub(crate) fn ends_block(instruction: &Instruction) -> bool {
    system::ends_block(instruction)
        || interrupt_flag::ends_block(instruction)
        || io::ends_block(instruction)
        || segment::ends_block(instruction)
}

fn raise_undefined(cpu: &mut Cpu, _: &Op) -> Flow {
    cpu.raise(vector::UD);
    Flow::Fault
}

fn raise_too_long(cpu: &mut Cpu, _: &Op) -> Flow {
    cpu.gp();
    Flow::Fault
}

fn raise_unavailable(cpu: &mut Cpu, _: &Op) -> Flow {
    cpu.raise(vector::NM);
    Flow::Fault
}

/// #UD.
pub(crate) fn undefined() -> Handler {
    handler(raise_undefined)
}

/// More than 15 bytes: #GP(0).
pub(crate) fn too_long() -> Handler {
    handler(raise_too_long)
}

/// #NM: x87 or SSE while CR0.TS or CR0.EM is set.
fn unavailable() -> Handler {
    handler(raise_unavailable)
}
