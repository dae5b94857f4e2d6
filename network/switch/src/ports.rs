//! Ports as the control side knows them.

use crate::store::PortRecord;
use bulkhead_linux::SeqPacket;
use bulkhead_port::PortInfo;
use bulkhead_switch_core as core;
use bulkhead_switch_protocol::SwitchDefinition;

/// How long an ephemeral port outlives what was attached to it: longer than a restart of the switch or of a worker.
pub const EPHEMERAL_SECONDS: u64 = 30;

/// A port.
pub struct Port {
    /// What is kept of it.
    pub record: PortRecord,
    /// Its place in the data plane.
    pub place: core::PortId,
    /// The connection over which it was attached, and its token.
    pub attached: Option<(u64, SeqPacket)>,
    /// When it was last attached: nanoseconds of the monotonic clock.
    pub last_attached: u64,
}

impl Port {
    /// What the owner of its NIC is told.
    pub fn info(&self, switch: &SwitchDefinition) -> PortInfo {
        PortInfo {
            switch: switch.name.clone(),
            port: self.record.settings.name.clone(),
            mac: self.record.settings.mac.clone().unwrap_or_default(),
            mtu: switch.mtu,
            link_up: self.record.settings.connected,
        }
    }
}

/// A secret: 128 random bits.
///
/// # Errors
/// The host has no randomness.
pub fn new_ticket() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
