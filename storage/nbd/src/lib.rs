//! NBD: a disk over a socket, as server and as client (protocol: the NBD project's `proto.md`).
//!
//! | module | what |
//! |---|---|
//! | `protocol` | numbers and layouts, parsing and writing; pure |
//! | `negotiation` | the server's side of the handshake: bytes in, bytes out; pure |
//! | `server`, `connection` | tasks on an I/O loop: no thread hop between the socket and the disk |
//! | `client` | a [`bulkhead_disk::Node`] whose bytes are behind a socket |
//!
//! Fixed newstyle, structured replies, block status with `base:allocation`, `bulkhead:depth` and contexts of the
//! export's own, write-zeroes, trim, flush, FUA, and several connections to one export. TLS is not offered: serve on a
//! Unix socket, or inside a tunnel.

mod client;
mod connection;
mod export;
#[doc(hidden)]
pub mod fuzz;
mod negotiation;
mod protocol;
mod server;
mod socket;

pub use client::Client;
pub use export::{ContextExtent, Export, StatusContext};
pub use server::Server;

/// What goes wrong between two NBD peers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NbdError {
    /// The socket failed or was closed.
    #[error("the NBD connection failed")]
    Socket(#[from] std::io::Error),
    /// The peer does not speak the protocol.
    #[error("the NBD peer sent {0}")]
    Protocol(String),
    /// The server refused what the client asked for.
    #[error("the NBD server refused {asked}: {reason}")]
    Refused {
        /// Option or export.
        asked: String,
        /// The server's words, or the name of its error.
        reason: String,
    },
}
