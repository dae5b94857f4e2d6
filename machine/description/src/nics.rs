//! Network adapters.

use bulkhead_packets::MacAddress;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A network adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkAdapter {
    /// What guests see.
    #[serde(default, skip_serializing_if = "AdapterKind::is_default")]
    pub kind: AdapterKind,
    /// Its address, `00-15-5D-01-02-03`.
    #[serde(with = "address")]
    pub address: MacAddress,
    /// Where its cable goes; absent = nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<SwitchPort>,
}

/// Kinds of network adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterKind {
    /// On VMBus: fast, and in need of a driver that knows it.
    #[default]
    Synthetic,
    /// A DEC 21140, which old systems and network boot know.
    Legacy,
}

impl AdapterKind {
    fn is_default(&self) -> bool {
        *self == AdapterKind::default()
    }
}

/// A port of a virtual switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchPort {
    /// Name of the switch.
    pub switch: String,
    /// What the switch knows the port by. Only on the way to a worker: whoever starts it has asked the switch.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ticket: String,
}

mod address {
    use super::*;

    pub fn serialize<S: Serializer>(address: &MacAddress, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(address)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MacAddress, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
