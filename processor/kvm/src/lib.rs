//! The KVM engine: hardware virtualization through the host kernel.
//!
//! Local APICs are the kernel's (split irqchip); PIC, IOAPIC, PIT and HPET are ours. A `/dev/kvm` that opens proves
//! nothing: some hosts offer one that emulates kernel code instruction by instruction. [`probe`] finds out.
#![allow(unsafe_code, reason = "KVM ioctls take host addresses; the run page is shared with the kernel")]

mod cpuid;
mod engine;
mod events;
mod fpu;
mod kick;
mod msrs;
mod partition;
mod probe;
mod routes;
mod run_page;
mod state;
mod vp;

pub use engine::KvmEngine;
pub use probe::{Verdict, probe};

use bulkhead_engine::EngineError;

/// Wraps the error of an ioctl.
fn host_error(operation: impl Into<String>) -> impl FnOnce(kvm_ioctls::Error) -> EngineError {
    let operation = operation.into();
    move |error| EngineError::Host { operation, source: std::io::Error::from_raw_os_error(error.errno()) }
}
