//! PCI: functions, their configuration space and BARs, and the bus on which the host bridge finds them.

mod bus;
mod config_space;
mod function;

pub use bus::{PciBus, SlotTaken};
pub use config_space::{BarKind, ConfigSpace, PciIdentity, SavedConfigSpace};
pub use function::{PciAddress, PciFunction};
