//! The messages.

use crate::{Hello, PortSettings, Problem, SwitchChange, SwitchDefinition};
use bulkhead_ids::{PortId, SwitchId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A packet to the switch process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToSwitch {
    /// Chosen by the sender; the answer carries it.
    pub id: u64,
    /// What to do.
    pub request: Request,
}

/// What the switch process can be asked. `switch` is a name or an id everywhere, `port` an id, or a name that is unique.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// First of all. Answer: `hello`.
    Hello(Hello),
    /// Makes a virtual switch.
    CreateSwitch {
        /// What it is like.
        definition: Box<SwitchDefinition>,
        /// Share the NIC that carries the host's connection, although it may be lost.
        #[serde(default)]
        force: bool,
    },
    /// Changes one.
    SetSwitch {
        /// Which.
        switch: String,
        /// What.
        change: SwitchChange,
    },
    /// Removes one. Refused while something is attached to it.
    DeleteSwitch {
        /// Which.
        switch: String,
    },
    /// All virtual switches. Answer: `switches`.
    Switches,
    /// Makes a port. Answer: `port`.
    CreatePort {
        /// Of which switch.
        switch: String,
        /// What it is like.
        settings: Box<PortSettings>,
    },
    /// Gives a port other settings, its ephemeral nature aside.
    SetPort {
        /// Which.
        port: String,
        /// All of them.
        settings: Box<PortSettings>,
    },
    /// Removes a port; what is attached loses its link.
    DeletePort {
        /// Which.
        port: String,
    },
    /// Ports, with their traffic, a page of them. Answer: `ports`.
    Ports {
        /// Only those of this switch.
        #[serde(default)]
        switch: Option<String>,
        /// Only those after this one, in the order of ids.
        #[serde(default)]
        after: Option<PortId>,
    },
    /// What the switch has learned, a page of it. Answer: `addresses`.
    Addresses {
        /// Which switch.
        switch: String,
        /// How many to leave out at the start.
        #[serde(default)]
        skip: usize,
    },
    /// Writes what passes a port to the packet's descriptor, as pcapng, until `stop_capture` or the end of this connection.
    Capture {
        /// Which.
        port: String,
        /// Bytes kept of each frame.
        snap: u32,
    },
    /// Ends a capture.
    StopCapture {
        /// Of which port.
        port: String,
    },
}

/// A packet from the switch process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FromSwitch {
    /// That of the request.
    pub id: u64,
    /// What came of it.
    pub result: Result<Answer, Problem>,
}

/// A successful answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done.
    Done,
    /// Who the switch process is.
    Hello(Hello),
    /// Virtual switches.
    Switches(Vec<SwitchStatus>),
    /// A port was made.
    Port {
        /// Its id.
        id: PortId,
        /// What it is attached with, at the ports' socket. Whoever has it has the port.
        ticket: String,
        /// Its address.
        mac: String,
    },
    /// Ports.
    Ports {
        /// Some of them.
        ports: Vec<PortStatus>,
        /// There are more after the last one.
        more: bool,
    },
    /// Addresses.
    Addresses {
        /// Some of them.
        addresses: Vec<Address>,
        /// There are more.
        more: bool,
    },
}

/// A virtual switch as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwitchStatus {
    /// What it was told to be.
    pub definition: SwitchDefinition,
    /// Ports, the uplink and the host's among them.
    pub ports: usize,
    /// Addresses that it knows.
    pub addresses: usize,
    /// The NIC that carries the traffic now, of a team; else the uplink if it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_uplink: Option<String>,
    /// What does not work, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A port as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Its id; none for uplinks and host ports.
    pub id: Option<PortId>,
    /// Its switch.
    pub switch: SwitchId,
    /// `guest`, `host`, `uplink`.
    pub kind: String,
    /// What it was told to be, with the address that it has.
    pub settings: PortSettings,
    /// Whether something is attached.
    pub attached: bool,
    /// What it sent.
    pub sent: Traffic,
    /// What it received.
    pub received: Traffic,
    /// Frames dropped, by reason; reasons that did not occur are absent.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
}

/// Counted frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// How many.
    pub frames: u64,
    /// Their bytes, without metadata.
    pub bytes: u64,
}

/// An address that a switch knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// VLAN; 0 is untagged.
    pub vlan: u16,
    /// The address.
    pub mac: String,
    /// Name of the port that it is behind.
    pub port: String,
    /// The port's own, not learned.
    pub own: bool,
}
