//! What `bulkhead-switch` asks of `bulkhead-net-helper`, which has the privileges: interfaces, opened. One JSON message each way; an
//! opened interface is the answer's descriptor.

use crate::definition::check_interface;
use serde::{Deserialize, Serialize};

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HelperRequest {
    /// A packet socket on a NIC, which is set up if it is down.
    OpenPacket {
        /// The NIC.
        interface: String,
    },
    /// An interface of the host, made if it is not there, and kept when its descriptor is closed.
    OpenTap {
        /// Its name.
        interface: String,
        /// Its MTU.
        mtu: u16,
        /// Address with prefix that it gets.
        #[serde(default)]
        address: Option<String>,
    },
    /// A port of a bridge: an interface of the host that goes away with its descriptor.
    OpenBridgePort {
        /// The bridge.
        bridge: String,
        /// Name of the port.
        interface: String,
    },
    /// A macvtap on a NIC, which stays until it is removed.
    OpenMacvtap {
        /// The NIC.
        parent: String,
        /// Name of the macvtap.
        interface: String,
    },
    /// Removes an interface that was made here.
    Remove {
        /// Which.
        interface: String,
    },
    /// Moves addresses and routes from one interface to another.
    MoveAddresses {
        /// From here …
        from: String,
        /// … to here.
        to: String,
    },
}

/// The answer.
pub type HelperAnswer = Result<(), String>;

impl HelperRequest {
    /// Whether its names are such.
    ///
    /// # Errors
    /// Which is not.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::OpenPacket { interface } | Self::Remove { interface } => check_interface(interface),
            Self::OpenTap { interface, address, .. } => {
                let valid = address.as_ref().is_none_or(|text| is_address(text));
                if !valid {
                    return Err(format!("{address:?} is no address with a prefix, like 192.168.137.1/24"));
                }
                check_interface(interface)
            }
            Self::OpenBridgePort { bridge: other, interface }
            | Self::OpenMacvtap { parent: other, interface }
            | Self::MoveAddresses { from: other, to: interface } => {
                check_interface(other)?;
                check_interface(interface)
            }
        }
    }
}

fn is_address(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else { return false };
    let most = match address.parse::<std::net::IpAddr>() {
        Ok(address) if address.is_ipv4() => 32,
        Ok(_) => 128,
        Err(_) => return false,
    };
    prefix.parse::<u8>().is_ok_and(|bits| bits <= most && prefix == bits.to_string())
}
