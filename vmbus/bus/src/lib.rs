//! VMBus: offers devices to the guest, opens and closes their channels, moves signals both ways.
//!
//! [`VmBus`] is what the Hyper-V interface gives posts and signals to ([`bulkhead_hyperv::HypercallPorts`]), and what
//! devices are offered on ([`bulkhead_vmbus_channel::ChannelBus`]). [`VmBusDevice`] is its place among the machine's
//! devices: saved, reset, paused.
//!
//! ```text
//! VP thread    post_message ─► inbox ─► loop: messages.rs changes the state, sends answers ─► calls.rs: device.open/close
//!              signal_event ─► doorbell.rs ─► device.signalled (on the loop, or at once)
//! any thread   offer, remove (offers.rs); the end of a close (calls.rs) lets messages go on that waited for it
//! ```
//!
//! One lock, that of the state. Devices are never called under it, so they may call the bus; messages to the guest are sent
//! under it, so they leave in the order of the changes that they tell of.
//!
//! A message that must wait until channels are closed (a new kernel's first contact: I/O for the old one may still be
//! writing into memory) stays at the head of the inbox until they are.

mod bus;
mod calls;
mod device;
mod doorbell;
#[doc(hidden)]
pub mod fuzz;
mod gpadl_assembly;
mod messages;
mod offers;
mod saved_state;
mod state;

pub use bus::{VmBus, Wiring};
pub use device::VmBusDevice;
