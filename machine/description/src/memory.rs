//! RAM, and how it may grow and shrink.

use crate::Size;
use serde::{Deserialize, Serialize};

/// RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// How much the VM starts with, a multiple of 1 MiB.
    pub size: Size,
    /// It grows and shrinks as the guest needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic: Option<DynamicMemory>,
}

/// Between which limits RAM grows and shrinks. Needs the Hyper-V interface, and a guest with a driver for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicMemory {
    /// The guest keeps at least this, a multiple of 1 MiB.
    pub minimum: Size,
    /// It gets at most this, a multiple of 1 MiB.
    pub maximum: Size,
    /// Percent of what it uses that it has free on top of that.
    #[serde(default = "buffer")]
    pub buffer: u32,
    /// Importance against other VMs when the host is short of memory, 1 to 10000.
    #[serde(default = "weight")]
    pub weight: u32,
}

impl DynamicMemory {
    /// Between these limits, with the usual buffer (20 %) and weight (5000).
    pub fn new(minimum: Size, maximum: Size) -> DynamicMemory {
        DynamicMemory { minimum, maximum, buffer: buffer(), weight: weight() }
    }
}

fn buffer() -> u32 {
    20
}

fn weight() -> u32 {
    5000
}
