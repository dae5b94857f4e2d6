//! The interface as a device of the machine: saved, reset and looked into like any other.

use crate::HyperV;
use bulkhead_device::Device;
use bulkhead_saved_state::{SavedState, SavedStateError};
use std::sync::Arc;

/// See [`HyperV`], which VPs use without this device's lock.
pub struct HyperVDevice(Arc<HyperV>);

impl HyperVDevice {
    /// Name of the section in a saved state.
    pub const NAME: &str = "hyperv";

    /// The device of this interface.
    pub fn new(interface: Arc<HyperV>) -> Self {
        Self(interface)
    }
}

impl Device for HyperVDevice {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        self.0.save()
    }

    fn inspect(&self) -> serde_json::Value {
        self.0.inspect()
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}
