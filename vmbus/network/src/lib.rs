//! The synthetic network adapter: the VSP that Linux' `hv_netvsc` and Windows' `netvsc` drive.
//!
//! Two protocols lie in each other: NVSP sets up buffers and channels, RNDIS inside it carries NDIS objects and frames. Frames
//! go to and from a [`PortRing`](bulkhead_port::PortRing) of a virtual switch, with their offloads as
//! [`FrameMeta`](bulkhead_packets::FrameMeta). Flow control is without loss in both directions: a port without room stops us
//! reading the guest's ring, and a guest without free receive sections stops us reading the port.
//!
//! | module | holds |
//! |---|---|
//! | `nvsp`, `rndis`, `oid`, `rss`, `offload` | the messages, pure |
//! | `session` | what is negotiated, pure |
//! | `buffers` | the receive and send buffers |
//! | `adapter` | the device on the bus |
//! | `transmit`, `receive` | frames |
//!
//! Sources: Linux' `drivers/net/hyperv`, MS-RNDIS, the NDIS reference of the Windows driver documentation.

mod adapter;
mod buffers;
mod field;
#[doc(hidden)]
pub mod fuzz;
mod nvsp;
mod offload;
mod oid;
mod receive;
mod rndis;
mod rss;
mod saved_state;
mod session;
mod transmit;

pub use adapter::{Config, NetworkAdapter};
pub use oid::MAX_MTU;
