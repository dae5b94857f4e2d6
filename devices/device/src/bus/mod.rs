//! The buses that find the device of an address: ports and memory-mapped registers.

mod error;
mod map;
mod mmio;
mod port;

pub use error::BusError;
pub use map::Region;
pub use mmio::{Mmio, MmioBus, MmioRegion};
pub use port::{PortBus, PortIo, PortRegion};
