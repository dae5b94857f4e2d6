//! What the NAT needs from outside: sockets of the host, boot files, and the link to the guests.

use bulkhead_packets::FrameMeta;
use bulkhead_reactor::Time;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Names a socket towards the shell: it hands the number back when the socket is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u64);

/// The network stack of the host. No call may wait.
pub trait Host {
    /// A TCP connection.
    type Stream: Stream;
    /// A UDP socket, or one that pings.
    type Datagrams: Datagrams;

    /// Begins to connect. The shell calls [`Nat::stream_ready`](crate::Nat::stream_ready) with `id` when the stream is connected
    /// or has failed, and then whenever new data came, there is room again, or the other side ended (edge-triggered).
    ///
    /// # Errors
    /// What the host says.
    fn connect(&mut self, to: SocketAddrV4, id: SocketId) -> io::Result<Self::Stream>;

    /// A UDP socket that sends from any address and port of the host. The shell calls
    /// [`Nat::datagrams_ready`](crate::Nat::datagrams_ready) when something came.
    ///
    /// # Errors
    /// What the host says.
    fn udp(&mut self, id: SocketId) -> io::Result<Self::Datagrams>;

    /// A socket for ICMP echo; its payloads are whole ICMP messages, whose identifier the host chooses.
    ///
    /// # Errors
    /// What the host says: many refuse it to ordinary users.
    fn ping(&mut self, id: SocketId) -> io::Result<Self::Datagrams>;

    /// A file for network boot, by the name that the guest asks for.
    ///
    /// # Errors
    /// It is not there, or not allowed.
    fn boot_file(&mut self, name: &str) -> io::Result<Box<dyn BootFile>>;
}

/// A byte stream of the host. Dropping it closes it.
pub trait Stream {
    /// After the first readiness of a stream that connects: whether that went well.
    ///
    /// # Errors
    /// Why not. `WouldBlock`: not decided yet.
    fn connected(&mut self) -> io::Result<()>;

    /// Writes what there is room for.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Reads from `skip` bytes after the first one that was not [consumed](Stream::consume), and leaves the bytes there. 0 is
    /// the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing (more) yet.
    fn peek(&mut self, skip: usize, buffer: &mut [u8]) -> io::Result<usize>;

    /// Takes the first `len` bytes, all of which were peeked at.
    ///
    /// # Errors
    /// What the host says.
    fn consume(&mut self, len: usize) -> io::Result<()>;

    /// Nothing more will be written.
    fn finish(&mut self);

    /// Makes closing a reset.
    fn abort(&mut self);
}

/// A socket for datagrams.
pub trait Datagrams {
    /// Sends one. One that cannot go now is lost.
    ///
    /// # Errors
    /// What the host says.
    fn send(&mut self, to: SocketAddrV4, payload: &[u8]) -> io::Result<()>;

    /// Receives one: its length and where it is from.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddrV4)>;
}

/// A file that guests boot from.
pub trait BootFile {
    /// Bytes.
    fn len(&self) -> u64;

    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads at `offset`; fewer bytes only at the end.
    ///
    /// # Errors
    /// What the host says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// The link to the guests: a port of a switch.
pub trait Link {
    /// Whether a frame of `len` bytes can be sent now. If not, the shell calls [`Nat::link_ready`](crate::Nat::link_ready) when
    /// there is room.
    fn room(&mut self, len: usize) -> bool;

    /// Sends a frame made of `parts`. Without room it is lost.
    fn send(&mut self, meta: &FrameMeta, parts: &[&[u8]]);
}

/// What every call into the NAT gets.
pub struct Io<'a, H: Host, L: Link> {
    /// The time.
    pub now: Time,
    /// The host's network.
    pub host: &'a mut H,
    /// The guests' network.
    pub link: &'a mut L,
}

/// Where a connection to a guest comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// The client outside.
    pub client: SocketAddrV4,
    /// The guest.
    pub guest: Ipv4Addr,
    /// The guest's port.
    pub port: u16,
}
