//! The device model: what a device is, what it may be able to do, and the buses, lines and sinks it is wired to.
//!
//! A device is a value behind one lock, `Arc<Mutex<T>>`, owned by the machine. `T` implements [`Device`] and the abilities
//! that it has:
//!
//! | ability | registered with |
//! |---|---|
//! | [`PortIo`] | [`PortBus::map`] at a fixed place, [`PortBus::region`] for a place that moves |
//! | [`Mmio`] | [`MmioBus::map`], [`MmioBus::region`] |
//! | [`PciFunction`] | [`PciBus::add`]; its [`ConfigSpace`] moves the regions of its BARs |
//! | [`LineInput`] (interrupt controllers) | [`Line::new`] with the device's `Arc<Mutex<T>>` as sink |
//!
//! # Locks
//! Buses, lines and sinks are called under the calling device's lock. The order is: PCI host → function → bus tables, and
//! device → [`OrGate`] → interrupt controller → engine. A sink must not call back into the device that called it; what has
//! to (a reset, for example) is posted to the reactor or left to the thread that runs the VM.
//!
//! # Restore
//! A restored device is made by a constructor that takes its saved type. Lines are not saved: their drivers set them again,
//! and controllers remember the level of their inputs, so that setting them again makes no new edge.

mod bus;
mod device;
#[doc(hidden)]
pub mod fuzz;
mod interrupt;
mod line;
mod pci;
mod power;

pub use bus::{BusError, Mmio, MmioBus, MmioRegion, PortBus, PortIo, PortRegion, Region};
pub use device::{Device, QuiesceToken};
pub use interrupt::{ExtIntSource, Msi, MsiSink};
pub use line::{Line, LineInput, LineSink, OrGate};
pub use pci::{BarKind, ConfigSpace, PciAddress, PciBus, PciFunction, PciIdentity, SavedConfigSpace, SlotTaken};
pub use power::{PowerRequest, PowerSink};
