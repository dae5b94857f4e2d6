//! The handshake of a port, and its life on the side of the NIC.
//!
//! Over a SEQPACKET socket, one JSON message each way: [`AttachRequest`] with the memfd, then [`AttachReply`] with the two pipe ends,
//! which the switch makes so that the port never holds its ends. The socket stays open: the switch sends an
//! [`AttachReply::Attached`] again when something about the port changes, and either side closing it ends the port.

use crate::{PortRing, RingSize, WakeReceiver, WakeSender, nic_side, switch_side, wake_pair};
use bulkhead_linux::{Message, MessageError, SeqPacket, SharedMapping, sealed_memfd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

/// The version of rings and handshake that this build speaks.
const VERSION: u32 = 1;
/// How long a switch may take to answer.
const ANSWER_SECONDS: i64 = 5;
/// What the kernel says of a file on hugetlbfs. Touching a page of it is fatal when none are left, so it is no port's memory.
const HUGETLBFS_MAGIC: i64 = 0x9584_58F6;

/// From the owner of a NIC to the switch, with the memfd as the only descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// The newest version that the sender speaks.
    pub version: u32,
    /// What the port is known by; whoever made the port got it from the switch.
    pub ticket: String,
    /// Bytes of each ring.
    pub ring: u32,
    /// What the sender can take.
    #[serde(default)]
    pub options: AttachOptions,
}

/// What the owner of a NIC can receive. The switch completes and cuts frames for a port that cannot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachOptions {
    /// Frames with a partial checksum.
    pub partial_checksum: bool,
    /// TCP frames to be cut (needs `partial_checksum`).
    pub tcp_segmentation: bool,
    /// UDP frames to be cut (needs `partial_checksum`).
    pub udp_segmentation: bool,
}

impl AttachOptions {
    /// Takes everything.
    pub const ALL: AttachOptions =
        AttachOptions { partial_checksum: true, tcp_segmentation: true, udp_segmentation: true };
}

/// From the switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachReply {
    /// The port works. Descriptors the first time: the pipe end to wake the switch by, and the one it wakes the port by.
    Attached {
        /// What both speak from now on.
        version: u32,
        /// What the port is like.
        port: PortInfo,
    },
    /// It does not; the switch closes the socket.
    Refused {
        /// For people.
        message: String,
    },
}

/// What a NIC should know of its port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    /// Name of the virtual switch.
    pub switch: String,
    /// Name of the port.
    pub port: String,
    /// The address that the NIC should have, `00-15-5D-01-02-03`.
    pub mac: String,
    /// Longest IP packet that the switch carries.
    pub mtu: u16,
    /// Whether the cable is in.
    pub link_up: bool,
}

/// Why a port was not attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The switch does not run, or its socket cannot be reached.
    #[error("cannot reach the switch at {at}")]
    Connect {
        /// Where.
        at: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The handshake broke off.
    #[error("the handshake with the switch failed")]
    Message(#[from] MessageError),
    /// It closed the connection, or did not answer in time.
    #[error("the switch did not answer")]
    NoAnswer,
    /// It said no.
    #[error("the switch refused the port: {message}")]
    Refused {
        /// Its words.
        message: String,
    },
    /// What it sent is no answer.
    #[error("a malformed message in the handshake of a port: {what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
    /// Out of descriptors or memory.
    #[error("cannot make the rings of a port")]
    Resources(#[from] io::Error),
}

/// How to reach a port, again and again: the socket of the switch, and the ticket.
#[derive(Debug)]
pub struct Connector {
    at: SocketAt,
    ticket: String,
}

#[derive(Debug)]
enum SocketAt {
    Path(PathBuf),
    Directory(OwnedFd, String),
}

impl Connector {
    /// By path.
    pub fn at_path(path: impl Into<PathBuf>, ticket: impl Into<String>) -> Connector {
        Connector { at: SocketAt::Path(path.into()), ticket: ticket.into() }
    }

    /// By name in an open directory: for processes that open no paths. A switch that restarts makes a new socket there.
    pub fn in_directory(directory: OwnedFd, name: impl Into<String>, ticket: impl Into<String>) -> Connector {
        Connector { at: SocketAt::Directory(directory, name.into()), ticket: ticket.into() }
    }

    fn path(&self) -> PathBuf {
        match &self.at {
            SocketAt::Path(path) => path.clone(),
            SocketAt::Directory(directory, name) => format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()).into(),
        }
    }
}

/// An attached port, on the side of the NIC.
#[derive(Debug)]
pub struct Port {
    /// The rings: for the adapter.
    pub ring: PortRing,
    /// The switch: for whoever plugs the adapter in. The port lives as long as this.
    pub control: PortControl,
}

/// The handshake's socket, over which the switch tells what changes.
#[derive(Debug)]
pub struct PortControl {
    info: PortInfo,
    socket: SeqPacket,
}

impl Port {
    /// Attaches. Waits for the switch, which answers at once when it runs (five seconds at most).
    ///
    /// # Errors
    /// [`AttachError`]. After `Connect` and `NoAnswer` trying again later makes sense: the switch may be restarting.
    pub fn attach(connector: &Connector, size: RingSize, options: AttachOptions) -> Result<Port, AttachError> {
        let path = connector.path();
        let socket = SeqPacket::connect(&path)
            .map_err(|source| AttachError::Connect { at: path.display().to_string(), source })?;
        Self::attach_over(socket, &connector.ticket, size, options)
    }

    /// The same over a connected socket.
    ///
    /// # Errors
    /// As for [`attach`](Self::attach).
    pub fn attach_over(
        socket: SeqPacket,
        ticket: &str,
        size: RingSize,
        options: AttachOptions,
    ) -> Result<Port, AttachError> {
        let memory = sealed_memfd("port", size.memory())?;
        let request = AttachRequest { version: VERSION, ticket: ticket.to_owned(), ring: size.bytes(), options };
        let bytes = serde_json::to_vec(&request).map_err(malformed)?;
        socket.send(&bytes, &[memory.as_fd()])?;
        socket.set_nonblocking(true)?;
        let timeout = Timespec { tv_sec: ANSWER_SECONDS, tv_nsec: 0 };
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(AttachError::NoAnswer),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(AttachError::Resources(error.into())),
        }
        let answer = match socket.receive() {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(AttachError::NoAnswer),
            Err(error) if error.is_would_block() => return Err(AttachError::NoAnswer),
            Err(error) => return Err(error.into()),
        };
        let info = parse_reply(&answer.bytes)?;
        let Ok([to_switch, from_switch]) = <[OwnedFd; 2]>::try_from(answer.descriptors) else {
            return Err(AttachError::Malformed { what: "an answer without the two pipes".into() });
        };
        let memory = Arc::new(SharedMapping::new(memory)?);
        let ring = nic_side(memory, size, WakeSender::from(to_switch), WakeReceiver::from(from_switch));
        Ok(Port { ring, control: PortControl { info, socket } })
    }
}

impl PortControl {
    /// What the switch last said of the port.
    pub fn info(&self) -> &PortInfo {
        &self.info
    }

    /// Readable when the switch has news of the port, or is gone: then call [`news`](Self::news).
    pub fn readable(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes news of the port: whether anything changed. Does not wait.
    ///
    /// # Errors
    /// `NoAnswer` when the switch is gone: drop the port and attach again.
    pub fn news(&mut self) -> Result<bool, AttachError> {
        let before = self.info.clone();
        loop {
            match self.socket.receive() {
                Ok(Some(message)) => self.info = parse_reply(&message.bytes)?,
                Ok(None) => return Err(AttachError::NoAnswer),
                Err(error) if error.is_would_block() => return Ok(self.info != before),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn malformed(error: serde_json::Error) -> AttachError {
    AttachError::Malformed { what: error.to_string() }
}

pub(crate) fn parse_reply(bytes: &[u8]) -> Result<PortInfo, AttachError> {
    match serde_json::from_slice(bytes).map_err(malformed)? {
        AttachReply::Attached { version: VERSION, port } => Ok(port),
        AttachReply::Attached { version, .. } => {
            Err(AttachError::Malformed { what: format!("version {version}, where {VERSION} was asked for") })
        }
        AttachReply::Refused { message } => Err(AttachError::Refused { message }),
    }
}

/// A request to attach, on the side of the switch: checked, and mapped.
#[derive(Debug)]
pub struct Offer {
    request: AttachRequest,
    size: RingSize,
    memory: SharedMapping,
}

/// Reads a request to attach.
///
/// # Errors
/// `Malformed` with the reason, which [`refuse`] may pass on.
pub fn accept(message: Message) -> Result<Offer, AttachError> {
    let refused = |what: String| AttachError::Malformed { what };
    let request: AttachRequest = serde_json::from_slice(&message.bytes).map_err(malformed)?;
    if request.version < VERSION {
        return Err(refused(format!("version {}, but this switch speaks {VERSION}", request.version)));
    }
    let size = RingSize::new(request.ring).map_err(|error| refused(error.to_string()))?;
    let Ok([memory]) = <[OwnedFd; 1]>::try_from(message.descriptors) else {
        return Err(refused("the memory is missing".into()));
    };
    if rustix::fs::fstatfs(&memory).is_ok_and(|file_system| file_system.f_type == HUGETLBFS_MAGIC) {
        return Err(refused("memory in huge pages".into()));
    }
    let memory = SharedMapping::new(memory).map_err(|error| refused(error.to_string()))?;
    if memory.len() != size.memory() {
        return Err(refused(format!("{} bytes of memory for rings of {size}", memory.len())));
    }
    Ok(Offer { request, size, memory })
}

impl Offer {
    /// The ticket: which port is meant.
    pub fn ticket(&self) -> &str {
        &self.request.ticket
    }

    /// What the other side can receive.
    pub fn options(&self) -> AttachOptions {
        self.request.options
    }

    /// The rings of the switch, and the answer that is still to be [sent](Welcome::send): once the rings are in use, because the
    /// other side sends and expects frames from then on.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn attach(self) -> io::Result<(PortRing, Welcome)> {
        let (to_switch, at_switch) = wake_pair()?;
        let (to_nic, at_nic) = wake_pair()?;
        let ring = switch_side(Arc::new(self.memory), self.size, to_nic, at_switch);
        Ok((ring, Welcome { to_switch, at_nic }))
    }
}

/// The answer to an [`Offer`] that was taken.
#[derive(Debug)]
pub struct Welcome {
    to_switch: WakeSender,
    at_nic: WakeReceiver,
}

impl Welcome {
    /// Tells the other side that its port works.
    ///
    /// # Errors
    /// It is gone.
    pub fn send(self, socket: &SeqPacket, port: &PortInfo) -> Result<(), AttachError> {
        let reply = AttachReply::Attached { version: VERSION, port: port.clone() };
        let bytes = serde_json::to_vec(&reply).map_err(malformed)?;
        socket.send(&bytes, &[self.to_switch.as_fd(), self.at_nic.as_fd()])?;
        Ok(())
    }
}

/// Tells the other side why not, as well as that goes.
pub fn refuse(socket: &SeqPacket, message: String) {
    if let Ok(bytes) = serde_json::to_vec(&AttachReply::Refused { message }) {
        // It may be gone; there is nobody else to tell.
        let _ = socket.send(&bytes, &[]);
    }
}

/// Tells an attached port what has changed. The socket should be non-blocking: news that do not fit are lost.
///
/// # Errors
/// It is gone.
pub fn tell(socket: &SeqPacket, port: &PortInfo) -> Result<(), AttachError> {
    let bytes =
        serde_json::to_vec(&AttachReply::Attached { version: VERSION, port: port.clone() }).map_err(malformed)?;
    match socket.send(&bytes, &[]) {
        Err(error) if !error.is_would_block() => Err(error.into()),
        _ => Ok(()),
    }
}
