//! The bridges of a 440FX/PIIX board.
//!
//! | part | guest sees | host supplies |
//! |---|---|---|
//! | [`ConfigPorts`] | ports CF8h–CFFh: configuration mechanism 1, reset control at CF9h | the functions, a power sink |
//! | [`HostBridge`] | 00:00.0, 8086:1237: shadow RAM (PAM) and SMRAM registers | who remaps memory |
//! | [`IsaBridge`] | 00:01.0, 8086:7000: routing of PIRQA–D to ISA interrupts | lines to the interrupt controllers |
//! | [`PowerManagement`] | 00:01.3, 8086:7113: ACPI registers, PM timer, SMI command port, SMBus host | SCI line, power sink |
//!
//! Documents: Intel 82441FX, 82371SB (PIIX3), 82371AB (PIIX4), ACPI 6.5 ch. 4.8.

mod config_ports;
#[doc(hidden)]
pub mod fuzz;
mod host_bridge;
mod isa_bridge;
mod power;
mod saved_state;

pub use config_ports::ConfigPorts;
pub use host_bridge::{HostBridge, MemoryWindows, SegmentAccess};
pub use isa_bridge::{IsaBridge, PciInterrupts};
pub use power::PowerManagement;
pub use saved_state::{SavedConfigPorts, SavedHostBridge, SavedIsaBridge, SavedPowerManagement};
