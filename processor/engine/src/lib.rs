//! The engine contract: what executes virtual processors, and what everybody else may ask of it.
//!
//! `Engine` makes a `Partition`; a partition makes `Vp`s. Two engines implement this: `kvm` and `soft`
//! (`processor/kvm`, `processor/soft`). Both are driven by the same worker loop and judged by the same
//! conformance suite (`processor/conformance`), and share one architectural [`VpState`], so that a saved VM can
//! resume on the other engine.
//!
//! ```text
//! worker thread of VP n            engine                         devices
//!   vp.run(&mut exits, limit) ──►  executes guest code
//!                                  port, MMIO, MSR … ──►          exits.port_in(0x1f7, 1)
//!                                  continues        ◄──           value
//!   Stop::Kicked              ◄──  partition.kick(n)
//! ```
//!
//! Exits that need an answer are calls on [`VpExits`]; [`Vp::run`] returns only when the VP stops. That suits both
//! engines: an interpreter gets its MMIO value in the middle of an instruction, and KVM's shell completes the exit
//! in the run page before it enters the guest again (docs/decisions/0001-exits-are-calls.md).

mod contract;
pub mod cpu_model;
mod cpuid;
mod error;
mod memory_map;
pub mod saved_state;
mod state;

pub use contract::*;
pub use cpuid::{CpuidContext, CpuidTable, CpuidValue};
pub use error::EngineError;
pub use memory_map::{MemoryMap, Slot, check_range};
pub use state::*;
