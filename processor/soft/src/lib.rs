//! The software processor: an interpreter of decoded blocks, with its own MMU and local APIC.
//!
//! | to find | look in |
//! |---|---|
//! | live state of a VP | `cpu.rs` |
//! | one decoded instruction, what a handler returns | `op.rs` |
//! | loads, stores, atomics of guest code | `memory.rs` |
//! | the semantics of instructions | `ops/` |

mod cpu;
mod flags;
mod int;
mod memory;
mod mmu;
mod op;
mod ops;
