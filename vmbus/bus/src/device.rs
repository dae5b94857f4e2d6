//! The bus among the machine's devices.

use crate::VmBus;
use crate::saved_state::{self, SavedBus};
use crate::state::{OfferEntry, Stage};
use bulkhead_device::{Device, QuiesceToken};
use bulkhead_saved_state::{SavedState, SavedStateError};
use serde_json::{Value, json};
use std::sync::Arc;

/// See [`VmBus`], which VPs and devices use without this device's lock.
pub struct VmBusDevice(Arc<VmBus>);

impl VmBusDevice {
    /// Name of the section in a saved state.
    pub const NAME: &str = "vmbus";

    /// The device of this bus.
    pub fn new(bus: Arc<VmBus>) -> VmBusDevice {
        VmBusDevice(bus)
    }
}

impl Device for VmBusDevice {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let saved = SavedBus::of(&self.0.state.lock());
        SavedState::encode(saved_state::KIND, saved_state::VERSION, &saved)
    }

    fn inspect(&self) -> Value {
        let state = self.0.state.lock();
        let connection = state.connection.map(|connection| {
            json!({
                "version": connection.version.to_string(),
                "target_vp": connection.target_vp,
                "offers_requested": connection.offers_requested,
            })
        });
        let offers: serde_json::Map<String, Value> =
            state.offers.values().map(|entry| (entry.offer.name.clone(), offer(entry))).collect();
        json!({
            "connection": connection,
            "offers": offers,
            "waiting_messages": state.inbox.len(),
            "rescinded": state.rescinded.keys().collect::<Vec<_>>(),
        })
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    fn start(&mut self) {
        self.0.start();
    }

    fn pause(&mut self, quiet: QuiesceToken) {
        self.0.pause(quiet);
    }
}

fn offer(entry: &OfferEntry) -> Value {
    let channels = entry.channels.iter().map(|channel| {
        let stage = match channel.stage {
            Stage::Closed if channel.offered => "offered",
            Stage::Closed => "unknown to the guest",
            Stage::Opening => "opening",
            Stage::Open(_) => "open",
            Stage::Closing => "closing",
        };
        json!({ "relid": channel.relid, "stage": stage, "target_vp": channel.doorbell.target() })
    });
    json!({
        "class": entry.offer.class.to_string(),
        "instance": entry.offer.instance.to_string(),
        "channels": channels.collect::<Vec<_>>(),
        "gpadls": entry.gpadls.all().len(),
    })
}
