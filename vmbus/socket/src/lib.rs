//! Sockets between host and guest: AF_VSOCK in a Linux guest, a Unix stream socket on the host.
//!
//! ```text
//! host connects   Sockets::connect(port)      ──► offer ──► the guest's listener opens the channel
//! guest connects  SocketAcceptor::connect     ──► offer ──► the guest opens it; `accepted` gets the other end
//! ```
//! | module | what |
//! |---|---|
//! | `frame` | data and end of stream in packets |
//! | `connection` | [`Connection`]: one channel and one Unix socket, bytes both ways |
//! | `sockets` | [`Sockets`]: all connections of a VM, its listeners, ports of the host |
//!
//! Connections do not outlive their worker: after a restore the guest finds them closed.

mod connection;
mod frame;
#[doc(hidden)]
pub mod fuzz;
mod sockets;

pub use connection::Connection;
pub use frame::{port_of, service_id};
pub use sockets::{Accepted, SavedSockets, SocketError, Sockets};
