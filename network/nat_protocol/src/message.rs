//! The messages.

use crate::{Forward, NatConfig, Reservation};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddrV4};

/// A packet to the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToNat {
    /// Chosen by the sender; the reply carries it.
    pub id: u64,
    /// What to do.
    pub request: NatRequest,
}

/// What the process can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NatRequest {
    /// Begins to serve a network. Once, and first. Descriptors: that of `port`, then that of the boot folder, if there is one.
    Start {
        /// The network.
        config: Box<NatConfig>,
        /// Its port.
        port: NatPort,
    },
    /// Replaces the reservations, names and boot files of guests.
    SetReservations(Vec<Reservation>),
    /// Opens a port of the host that leads to a guest.
    AddForward(Forward),
    /// Closes it.
    RemoveForward(Forward),
    /// The guests' addresses.
    Leases,
    /// The guests' TCP connections.
    Connections,
    /// Counters.
    Stats,
}

/// Where the frames come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NatPort {
    /// A port of a switch. The descriptor is the folder of its socket.
    Switch {
        /// Name of the socket there.
        socket: String,
        /// What the switch knows the port by.
        ticket: String,
    },
    /// One network adapter, without a switch in between. The descriptor is a listening SEQPACKET socket.
    Adapter {
        /// What the adapter has to say.
        ticket: String,
        /// The adapter's address.
        mac: String,
    },
}

/// A packet from the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatReply {
    /// That of the request.
    pub id: u64,
    /// What came of it, or what went wrong, for people.
    pub result: Result<NatAnswer, String>,
}

/// A successful answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NatAnswer {
    /// It is done.
    Done,
    /// The guests' addresses, at most as many as fit into a packet.
    Leases(Vec<LeaseInfo>),
    /// The guests' connections, at most as many as fit into a packet.
    Connections(Vec<ConnectionInfo>),
    /// Counters.
    Stats(NatStats),
}

/// An address that a guest has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseInfo {
    /// Its MAC address.
    pub mac: String,
    /// The address.
    pub address: Ipv4Addr,
    /// Its name.
    pub name: Option<String>,
    /// Seconds until it ends.
    pub seconds_left: u64,
}

/// A TCP connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// The guest's end.
    pub guest: SocketAddrV4,
    /// The other end.
    pub outside: SocketAddrV4,
    /// `connecting`, `handshake`, `established`, `closing`.
    pub state: String,
    /// Bytes from the guest that the host has not taken yet.
    pub pending: usize,
    /// Bytes to the guest that it has not acknowledged yet.
    pub unacknowledged: u32,
}

/// Counters of a NAT.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NatStats {
    /// Frames that came from guests.
    pub frames_in: u64,
    /// Frames that are none of what a NAT understands.
    pub malformed: u64,
    /// Fragments, which are not put together.
    pub fragments: u64,
    /// Packets to places that no guest may reach through the NAT.
    pub forbidden: u64,
    /// TCP connections now.
    pub tcp: usize,
    /// TCP connections since the start.
    pub tcp_opened: u64,
    /// TCP connections beyond the limit.
    pub tcp_refused: u64,
    /// UDP and ICMP mappings now.
    pub datagrams: usize,
    /// Mappings beyond the limit, or refused by the host.
    pub datagrams_refused: u64,
    /// DHCP requests for which there was no address.
    pub dhcp_exhausted: u64,
    /// DNS questions that were passed on.
    pub dns_forwarded: u64,
    /// Of these, without an answer.
    pub dns_failed: u64,
    /// Files sent by TFTP.
    pub tftp_files: u64,
}
