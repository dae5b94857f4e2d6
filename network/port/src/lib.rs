//! Ports of virtual switches: the seam between the switch process and whoever sends and receives frames.
//!
//! A port is a memfd with two rings (to the switch and from it) and a pipe each way to wake the other side. Whoever owns the NIC
//! makes the memfd and [attaches](Port::attach) over a socket; the switch [accepts](accept). Afterwards both sides hold a
//! [`PortRing`]: frames go out by [`Producer`] and come in by [`Consumer`], each with its [`FrameMeta`](bulkhead_packets::FrameMeta).
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use bulkhead_packets::FrameMeta;
//! let (mut nic, mut switch) = bulkhead_port::pair(bulkhead_port::RingSize::default())?;
//! nic.tx.send(&FrameMeta::default(), &[&[0; 60]])?;
//! nic.tx.publish()?;                       // visible, and the other side is woken if it sleeps
//! while let Some(frame) = switch.rx.peek()? {
//!     let mut bytes = vec![0; frame.len()];
//!     frame.read(0, &mut bytes)?;
//!     switch.rx.advance();
//! }
//! switch.rx.release()?;                    // gives the room back
//! if switch.rx.sleep()? { /* poll switch.wake, then switch.wake.clear() */ }
//! # Ok(()) }
//! ```
//!
//! Neither side trusts the other: indexes and headers are read once and checked, and a ring that breaks the rules is a
//! [`RingError::Broken`], after which the port is closed. When the other side is gone (`RingError::Gone`, or
//! [`WakeReceiver::clear`] says so), attach again: a new memfd, and only frames in flight are lost.

mod attach;
mod consumer;
pub mod fuzz;
mod layout;
mod metadata;
mod nic;
mod producer;
mod wake;

pub use attach::{
    AttachError, AttachOptions, AttachReply, AttachRequest, Connector, Offer, Port, PortControl, PortInfo, Welcome,
    accept, refuse, tell,
};
pub use consumer::{Consumer, Frame};
pub use layout::{RingSize, RingSizeError};
pub use nic::Nic;
pub use producer::{Producer, Slot};
pub use wake::{WakeReceiver, WakeSender, wake_pair};

use bulkhead_linux::{OutOfMapping, SharedMapping, sealed_memfd};
use std::io;
use std::sync::Arc;

/// Why a ring cannot go on, or a frame cannot go out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The other side broke the rules; close the port.
    #[error("the other side of a port broke its ring: {what}")]
    Broken {
        /// Which rule.
        what: &'static str,
    },
    /// The other side closed the port or died; attach again.
    #[error("the other side of a port is gone")]
    Gone,
    /// The caller's own frame is malformed; nothing was sent.
    #[error("a frame that no port carries")]
    Frame(#[from] bulkhead_packets::MetaError),
    /// An access outside the frame.
    #[error("an access outside a frame")]
    Range(#[from] OutOfMapping),
    /// The wake-up pipe failed.
    #[error("cannot wake the other side of a port")]
    Wake(#[source] io::Error),
}

/// One side of a port.
#[derive(Debug)]
pub struct PortRing {
    /// Frames to the other side.
    pub tx: Producer,
    /// Frames from the other side.
    pub rx: Consumer,
    /// Readable when there is something to do: frames came, or there is room again.
    pub wake: WakeReceiver,
}

/// Both sides of a port in one process: for devices in tests, and for what lives in the switch process itself.
///
/// # Errors
/// Out of descriptors or memory.
pub fn pair(size: RingSize) -> io::Result<(PortRing, PortRing)> {
    let memory = sealed_memfd("port", size.memory())?;
    let (to_switch, at_switch) = wake_pair()?;
    let (to_nic, at_nic) = wake_pair()?;
    let nic = nic_side(Arc::new(SharedMapping::new(memory.try_clone()?)?), size, to_switch, at_nic);
    let switch = switch_side(Arc::new(SharedMapping::new(memory)?), size, to_nic, at_switch);
    Ok((nic, switch))
}

fn nic_side(memory: Arc<SharedMapping>, size: RingSize, wake: WakeSender, woken: WakeReceiver) -> PortRing {
    let wake = Arc::new(wake);
    PortRing {
        tx: Producer::new(memory.clone(), size.into_switch(), wake.clone()),
        rx: Consumer::new(memory, size.out_of_switch(), wake),
        wake: woken,
    }
}

fn switch_side(memory: Arc<SharedMapping>, size: RingSize, wake: WakeSender, woken: WakeReceiver) -> PortRing {
    let wake = Arc::new(wake);
    PortRing {
        tx: Producer::new(memory.clone(), size.out_of_switch(), wake.clone()),
        rx: Consumer::new(memory, size.into_switch(), wake),
        wake: woken,
    }
}
