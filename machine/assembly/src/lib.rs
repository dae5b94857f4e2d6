//! A machine: the memory, processors, chipset and devices of one VM, assembled from its description.
//!
//! [`Machine`] owns everything but the threads: its worker runs the VPs with [`Machine::exits`], carries out what the guest
//! asks of the machine as a whole, and connects the devices in [`Handles`] to the outside.
//!
//! | to … | look at |
//! |---|---|
//! | add a device | `catalog.rs`, the one table of all devices |
//! | see where things are | `layout.rs` |
//! | change what firmware is told | `firmware.rs`, `acpi/`, `smbios.rs` |
//! | start another kind of kernel | `boot/` |

pub mod acpi;
mod board;
pub mod boot;
mod catalog;
mod dynamic_memory;
mod error;
mod exits;
mod firmware;
#[doc(hidden)]
pub mod fuzz;
pub mod layout;
mod machine;
mod memory_plan;
mod network;
mod network_boot;
mod processor_model;
mod resources;
pub mod saved_state;
pub mod smbios;
mod storage;
mod video;
mod vmbus;
mod windows;

pub use board::AnyDevice;
pub use dynamic_memory::MEMINFO;
pub use error::MachineError;
pub use exits::{ExitCounters, Exits};
pub use machine::{GuestRequests, Handles, Machine, MachineConfig};
pub use network::{NicHandle, adapter_name};
pub use resources::{FIRMWARE, Resources, VGA_FIRMWARE};
pub use storage::ControllerHandle;
pub use vmbus::{IntegrationHandles, ServiceSwitchError};
