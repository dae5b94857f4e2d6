//! Guest instructions executed by the host processor.
//!
//! Guest and host have the same instruction set, so the semantics of SIMD, floating-point, x87, cryptographic and
//! bit-manipulation instructions need not be written down: a *stub* loads the guest's operands, executes the
//! instruction itself and stores the results.
//!
//! ```text
//! iced Instruction ──catalog──► lower ──► Recipe ──emit──► bytes ──Stubs (cache)──► CodeMemory
//!                                            └── Stub { entry, operand slots, memory operand, flags, x87 }
//! ```
//!
//! * [`Stubs::get`] lowers an instruction; the result says what to pass to [`StubEntry`].
//! * [`NativeState`] holds what stubs work on: vector registers, MXCSR, x87, and the memory images of all that
//!   (FXSAVE, XSAVE, FNSAVE, FNSTENV).
//! * [`CodeMemory`] is the executable arena; faults inside it come back as return values (`fault`).
//! * [`Features`] tells what this host can execute.
//!
//! `lower` and `emit` are pure: bytes out of instructions, tested without executing anything.

mod catalog;
mod code_memory;
mod emit;
mod environment;
mod error;
mod fault;
mod features;
#[doc(hidden)]
pub mod fuzz;
mod gather;
mod lower;
mod state;
mod stub;
mod stubs;
mod xsave;

pub use catalog::{lowers, required_features, supports, x87_opcode};
pub use code_memory::{CodeMemory, CodeSpan, FAULT_MARKER, Full};
pub use environment::EnvFormat;
pub use error::{NativeError, NotNative, ReservedBits};
pub use features::Features;
pub use gather::Gather;
pub use lower::memory_operand;
pub use state::{NativeState, STATUS_FLAGS, Vector, X87Pointers};
pub use stub::{Lowered, Masked, MemoryOperand, Slot, Stub, StubEntry};
pub use stubs::Stubs;
