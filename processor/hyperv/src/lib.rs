//! The Hyper-V interface that guests see, the same on every engine: CPUID leaves, MSRs, the hypercall page, message and event
//! delivery (SynIC), reference time, crash reports (TLFS = Microsoft's Hypervisor Top Level Functional Specification).
//!
//! Nothing here runs threads. VPs' exits come in through [`HyperV::msr_read`], [`HyperV::msr_write`] and
//! [`HyperV::hypercall`]; interrupts go out through an [`MsiSink`](bulkhead_device::MsiSink).
//!
//! ```text
//! guest ── OUT (hypercall page) ──► HyperV::hypercall ──► HypercallPorts::{post_message, signal_event}   (VMBus)
//! guest ◄── SIMP, SIEFP, interrupt ── Synic ◄── SynicPort::{post_message, signal_event} ──                (VMBus)
//! ```
//!
//! # For whoever talks to guests through it (VMBus)
//!
//! * Implement [`HypercallPorts`] and give it to [`HyperV::connect`] once, before the first VP runs. It is called on VPs'
//!   threads, in the guest's program order per VP, and must not wait.
//! * Get a [`SynicPort`] from [`HyperV::synic`]. It may be called from every thread, also from inside `HypercallPorts`.
//!   Messages to one SINT of one VP arrive in the order of the calls, at once or when the guest frees the slot.
//! * The queues of waiting messages belong to the saved state of this crate; whoever posted them need not keep them.
//! * After a reset (`Device::reset` of [`HyperVDevice`]) all queues are empty and the SynIC is off.

mod clock;
mod cpuid;
mod crash;
mod device;
#[doc(hidden)]
pub mod fuzz;
mod hypercall;
mod interface;
pub mod msr;
mod overlay;
mod ports;
mod saved_state;
mod synic;

pub use cpuid::add_leaves;
pub use crash::{CrashSink, GuestCrash};
pub use device::HyperVDevice;
pub use hypercall::HypercallStatus;
pub use interface::{HyperV, HyperVConfig};
pub use ports::{HypercallPorts, SynicError, SynicMessage, SynicPort};
pub use synic::Synic;
