//! The functions of PCI bus 0, by address.

use super::{PciAddress, PciFunction};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

type WeakFunction = Weak<Mutex<dyn PciFunction>>;

/// A second function for one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("PCI address {0} cannot be used twice, or is not on the bus")]
pub struct SlotTaken(pub PciAddress);

/// PCI bus 0. Clones are the same bus. The machine owns the functions; a dropped one reads as absent.
#[derive(Clone, Default)]
pub struct PciBus {
    functions: Arc<RwLock<BTreeMap<PciAddress, WeakFunction>>>,
}

impl PciBus {
    /// An empty bus.
    pub fn new() -> PciBus {
        PciBus::default()
    }

    /// Puts a function at an address.
    ///
    /// # Errors
    /// [`SlotTaken`] when the address is used, or is no address.
    pub fn add<T: PciFunction + 'static>(&self, at: PciAddress, function: &Arc<Mutex<T>>) -> Result<(), SlotTaken> {
        let weak: Weak<Mutex<T>> = Arc::downgrade(function);
        let mut functions = self.functions.write();
        if at.device > 31 || at.function > 7 || functions.get(&at).is_some_and(|there| there.strong_count() > 0) {
            return Err(SlotTaken(at));
        }
        functions.insert(at, weak);
        Ok(())
    }

    /// The function at an address.
    pub fn function(&self, at: PciAddress) -> Option<Arc<Mutex<dyn PciFunction>>> {
        self.functions.read().get(&at)?.upgrade()
    }

    /// Configuration read of the four bytes at `offset`, a multiple of 4. All ones when there is no function.
    pub fn read(&self, at: PciAddress, offset: u8) -> u32 {
        self.function(at).map_or(u32::MAX, |function| function.lock().config_read(offset & !3))
    }

    /// Configuration write of `size` bytes (1, 2 or 4) at `offset`, inside an aligned group of four.
    pub fn write(&self, at: PciAddress, offset: u8, size: u8, value: u32) {
        if let Some(function) = self.function(at) {
            function.lock().config_write(offset, size, value);
        }
    }
}

impl std::fmt::Debug for PciBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.functions.read().keys()).finish()
    }
}
