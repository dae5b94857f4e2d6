//! What a NAT network is told ([`NatConfig`]), and what is said to the process `bulkhead-nat` that serves it.
//!
//! One JSON message per packet of a SEQPACKET socket, which the process gets as standard input. The first request is
//! [`NatRequest::Start`]; each request is answered with a [`NatReply`] of the same id. When the socket closes, the process ends.

mod config;
#[doc(hidden)]
pub mod fuzz;
mod message;

pub use config::{BootConfig, ConfigError, Forward, NatConfig, Network, Protocol, Reservation, is_label};
pub use message::{ConnectionInfo, LeaseInfo, NatAnswer, NatPort, NatReply, NatRequest, NatStats, ToNat};
