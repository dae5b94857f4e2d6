//! The NAT of a virtual network, in user mode, with everything that a gateway serves: DHCP, DNS, TFTP and HTTP.
//!
//! Pure: [`Nat`] is a state machine that gets frames from a [`Link`] (a port of a switch), uses sockets of a [`Host`], and is told
//! the time. The process `bulkhead-nat` drives it. It needs no privilege: TCP connections of guests end here and go on as
//! connections of this process, UDP and ICMP echo leave by ordinary sockets.
//!
//! | module | holds |
//! |---|---|
//! | `nat` | where every frame goes |
//! | `tcp`, `datagrams`, `forwards` | connections, mappings, forwarded ports |
//! | `dhcp`, `dns`, `tftp`, `http` | services of the gateway |
//! | `streams` | what the far end of a connection can be |
//! | `wire` | headers |
//! | `host` | what it needs |
//!
//! IPv4 only. Fragments from guests are dropped and counted; longer datagrams to guests are cut.

mod datagrams;
mod dhcp;
mod dhcp_message;
mod dns;
mod forwards;
#[doc(hidden)]
pub mod fuzz;
mod host;
mod http;
mod nat;
mod streams;
mod tcp;
mod tftp;
mod wire;

pub use dhcp::Lease;
pub use host::{BootFile, Datagrams, Forwarded, Host, Io, Link, SocketId, Stream};
pub use nat::Nat;
