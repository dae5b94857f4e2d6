//! The semantics of instructions: one module per group, each with a `select`.

use crate::cpu::Mode;
use crate::memory::{Flat, Flat32, Full};
use crate::op::{Handler, Op};
use iced_x86::Instruction;

/// What a group's `select` sees.
pub(crate) struct Selection<'a> {
    /// The instruction.
    pub instruction: &'a Instruction,
    /// The block's mode.
    pub mode: Mode,
    /// How the memory operand (or the stack, for instructions that only have an implicit stack operand) is addressed.
    pub address: AddressKind,
    /// Whether somebody may look at the arithmetic flags that this instruction sets.
    pub flags_live: bool,
}

/// The types of [`crate::memory::Address`], as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressKind {
    /// [`Flat`].
    Flat,
    /// [`Flat32`].
    Flat32,
    /// [`Full`].
    Full,
}

/// `by_address!(selection.address, A => handler(load::<T, A>))`: the expression for the right [`crate::memory::Address`] type.
macro_rules! by_address {
    ($kind:expr, $a:ident => $body:expr) => {
        match $kind {
            $crate::ops::AddressKind::Flat => {
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

/// A group's `select`: the handler of an instruction of the group, or `None`. May adjust the op's fields.
type Select = fn(&Selection, &mut Op) -> Option<Handler>;

/// All groups, the most frequent first.
const GROUPS: &[Select] = &[];

/// The handler of an instruction; `None` if no group knows it.
pub(crate) fn select(selection: &Selection, op: &mut Op) -> Option<Handler> {
    GROUPS.iter().find_map(|select| select(selection, op))
}
