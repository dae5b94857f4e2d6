//! Saved forms of the bridges.

use bulkhead_device::SavedConfigSpace;
use minicbor::{Decode, Encode};

/// The configuration ports.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedConfigPorts {
    /// Selected address.
    #[n(0)]
    pub address: u32,
    /// Reset control register.
    #[n(1)]
    pub reset_control: u8,
}

/// The host bridge.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedHostBridge {
    /// Configuration space.
    #[n(0)]
    pub config: SavedConfigSpace,
}

/// The ISA bridge.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedIsaBridge {
    /// Configuration space.
    #[n(0)]
    pub config: SavedConfigSpace,
}

/// Power management.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedPowerManagement {
    /// Configuration space.
    #[n(0)]
    pub config: SavedConfigSpace,
    /// PM1 status.
    #[n(1)]
    pub status: u16,
    /// PM1 enable.
    #[n(2)]
    pub enable: u16,
    /// PM1 control.
    #[n(3)]
    pub control: u16,
    /// General-purpose event status.
    #[n(4)]
    pub event_status: u16,
    /// General-purpose event enable.
    #[n(5)]
    pub event_enable: u16,
    /// The tick of the PM timer at which its highest bit next changes.
    #[n(6)]
    pub carry: u64,
    /// The other registers of the ACPI block that keep what is written.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub plain: Vec<u8>,
    /// SMI command and status.
    #[n(8)]
    pub smi: (u8, u8),
    /// SMBus host registers.
    #[cbor(n(9), with = "minicbor::bytes")]
    pub smbus: Vec<u8>,
}
