//! The software processor: an interpreter of decoded blocks, with its own MMU and local APIC.
//!
//! | to find | look in |
//! |---|---|
//! | the engine and partition handles | `partition.rs`; what threads share: `shared.rs`, the memory map: `map.rs` |
//! | the run loop | `vp.rs`; requests of others and interrupts: `interrupt.rs` |
//! | live state of a VP | `cpu.rs`; save and restore: `state.rs` |
//! | guest bytes to ops, the block cache | `decode/`; one op and what a handler returns: `op.rs` |
//! | loads, stores, atomics of guest code | `memory.rs`; page tables, TLB and slow paths: `mmu/` |
//! | the semantics of instructions | `ops/` |
//! | descriptors, far transfers, exceptions | `segment.rs`, `stack.rs`, `transfer.rs`, `exception.rs`, `debug.rs` |
//! | hot blocks as host code | `translate/` |
//! | local APIC | `apic/` |
//! | MSRs, TSC; what CPUID allows | `msr.rs`, `features.rs` |

mod apic;
mod cpu;
mod debug;
mod decode;
mod exception;
mod features;
mod flags;
#[doc(hidden)]
pub mod fuzz;
mod int;
mod interrupt;
mod memory;
mod mmu;
mod msr;
mod op;
mod ops;
mod options;
mod partition;
mod segment;
#[cfg(test)]
mod segment_tests;
mod shared;
mod stack;
mod state;
mod transfer;
mod translate;
mod vp;

pub use options::{Options, Tier};
pub use partition::{SoftEngine, SoftPartition};
