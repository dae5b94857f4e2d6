//! The Hyper-V interface of a bench, and who is behind its hypercalls.
//!
//! Connection 1 sends each posted message back, to the VP and SINT in the first two bytes of its payload. A signal to
//! connection `0x100 | sint` sets event flag n of that SINT on VP 0, n being the flag number of the signal. All others do not
//! exist. Crash reports are reported as `0xc4a50000`, the low half of parameter 0, and the length of the text; the reset MSR
//! ends the program with `reset`.

use std::sync::{Arc, Weak};

use bulkhead_device::{MsiSink, PowerRequest, PowerSink};
use bulkhead_engine::{EngineError, Msi, Partition};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_hyperv::{
    CrashSink, GuestCrash, HyperV, HyperVConfig, HypercallPorts, HypercallStatus, Synic, SynicMessage, SynicPort,
};
use bulkhead_reactor::Reactor;
use bulkhead_saved_state::SavedState;

use crate::bench::{Devices, refused};

/// What a bench's interface starts from.
pub enum Interface {
    /// There is none.
    Absent,
    /// As after power-on.
    New,
    /// As it was saved.
    Saved(SavedState),
}

/// The bench as the interface sees it.
pub struct Outside {
    pub partition: Weak<dyn Partition>,
    pub devices: Arc<Devices>,
    pub vp_count: u32,
}

/// Makes the interface.
pub fn interface(
    from: Interface,
    outside: Arc<Outside>,
    memory: &GuestMemory,
    reactor: &Reactor,
    tsc_hz: u64,
) -> Result<Option<Arc<HyperV>>, EngineError> {
    let config = HyperVConfig {
        vps: outside.vp_count,
        memory: memory.clone(),
        reactor: reactor.clone(),
        tsc_hz,
        interrupts: outside.clone(),
        power: outside.clone(),
        crashes: outside,
    };
    let interface = match from {
        Interface::Absent => return Ok(None),
        Interface::New => HyperV::new(config),
        Interface::Saved(state) => HyperV::restore(config, &state).map_err(|error| refused(&error))?,
    };
    interface.connect(Arc::new(Echo(interface.synic())));
    Ok(Some(interface))
}

impl MsiSink for Outside {
    fn send_msi(&self, msi: bulkhead_device::Msi) {
        if let Some(partition) = self.partition.upgrade() {
            partition.send_msi(Msi { address: msi.address, data: msi.data });
        }
    }
}

impl PowerSink for Outside {
    fn request(&self, _: PowerRequest) {
        if let Some(partition) = self.partition.upgrade() {
            self.devices.end("reset", &*partition, self.vp_count);
        }
    }
}

impl CrashSink for Outside {
    fn guest_crashed(&self, crash: GuestCrash) {
        let text = crash.text.map_or(0, |text| text.len() as u32);
        self.devices.reports.lock().extend([0xc4a5_0000, crash.parameters[0] as u32, text]);
    }
}

/// Sends everything back.
struct Echo(Arc<Synic>);

impl HypercallPorts for Echo {
    fn post_message(&self, connection_id: u32, message_type: u32, payload: &[u8]) -> HypercallStatus {
        let [vp, sint, ..] = *payload else { return HypercallStatus::InvalidParameter };
        if connection_id != 1 {
            return HypercallStatus::InvalidConnectionId;
        }
        let sent = SynicMessage::new(message_type, 0x77, payload)
            .and_then(|message| self.0.post_message(u32::from(vp), sint, &message));
        sent.map_or(HypercallStatus::InsufficientBuffers, |()| HypercallStatus::Success)
    }

    fn signal_event(&self, connection_id: u32, flag: u16) -> HypercallStatus {
        if connection_id & !15 != 0x100 {
            return HypercallStatus::InvalidConnectionId;
        }
        let sent = self.0.signal_event(0, (connection_id & 15) as u8, flag);
        sent.map_or(HypercallStatus::InvalidParameter, |()| HypercallStatus::Success)
    }
}
