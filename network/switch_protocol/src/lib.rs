//! What is said to `bulkhead-switch`, and how switches and ports are defined.
//!
//! A SEQPACKET socket, one JSON message per packet, as everywhere between Bulkhead's processes: a [`ToSwitch`] each way out, a
//! [`FromSwitch`] back. Definitions are the same types in TOML, one file per switch.

mod definition;
pub mod fuzz;
mod helper;
mod message;
pub mod paths;
mod port;
mod vlan_list;

pub use bulkhead_worker_protocol::{Channel, ChannelError, Hello, Incoming, Problem, ProblemKind};
pub use definition::{HostPort, SwitchChange, SwitchDefinition, SwitchKind, Uplink, UplinkMode};
pub use helper::{HelperAnswer, HelperRequest};
pub use message::{Address, Answer, FromSwitch, PortStatus, Request, SwitchStatus, ToSwitch, Traffic};
pub use port::{AclActionName, AclDirectionName, AclEntry, MirrorName, PortSettings, VlanSettings};
pub use vlan_list::{VlanList, VlanListError};

/// The version of the protocol and of the definitions.
pub const VERSION: u32 = 1;
