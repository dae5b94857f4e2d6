//! Sockets of the host, as the NAT wants them: non-blocking, known to epoll by their numbers.

use crate::boot_files::BootFolder;
use bulkhead_linux::set_peek_offset;
use bulkhead_nat::{BootFile, Datagrams, Host, SocketId, Stream};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, ipproto, sockopt,
};
use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

/// What consuming takes at once. The kernel only counts these bytes, so the memory stays untouched.
const DISCARD: usize = 1 << 20;

/// The host's network.
pub struct Sockets {
    adopter: Adopter,
    folder: Option<BootFolder>,
}

impl Sockets {
    /// Sockets that tell `epoll`; guests boot from `folder`.
    pub fn new(epoll: Rc<OwnedFd>, folder: Option<BootFolder>) -> Sockets {
        Sockets { adopter: Adopter { epoll, discard: Rc::new(RefCell::new(vec![0; DISCARD])) }, folder }
    }

    /// The folder that guests boot from.
    pub fn folder(&self) -> Option<&BootFolder> {
        self.folder.as_ref()
    }

    /// What makes streams of connected sockets.
    pub fn adopter(&self) -> Adopter {
        self.adopter.clone()
    }

    fn datagrams(&self, socket: OwnedFd, id: SocketId) -> io::Result<HostDatagrams> {
        epoll::add(&*self.adopter.epoll, &socket, EventData::new_u64(id.0), EventFlags::IN | EventFlags::ET)?;
        Ok(HostDatagrams(socket))
    }

    /// A bound UDP socket for a forwarded port.
    ///
    /// # Errors
    /// Out of memory for epoll.
    pub fn adopt_datagrams(&self, socket: OwnedFd, id: SocketId) -> io::Result<HostDatagrams> {
        self.datagrams(socket, id)
    }
}

/// Makes streams of connected sockets.
#[derive(Clone)]
pub struct Adopter {
    epoll: Rc<OwnedFd>,
    discard: Rc<RefCell<Vec<u8>>>,
}

impl Adopter {
    /// A connected socket as a stream.
    ///
    /// # Errors
    /// Out of memory for epoll.
    pub fn adopt(&self, socket: OwnedFd, id: SocketId) -> io::Result<HostStream> {
        // Latency counts more than the number of packets: guests have their own delays.
        sockopt::set_tcp_nodelay(&socket, true)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&*self.epoll, &socket, EventData::new_u64(id.0), flags)?;
        let peek_offset = set_peek_offset(&socket, 0).is_ok();
        Ok(HostStream { socket, discard: self.discard.clone(), peek_offset })
    }
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

impl Host for Sockets {
    type Stream = HostStream;
    type Datagrams = HostDatagrams;

    fn connect(&mut self, to: SocketAddrV4, id: SocketId) -> io::Result<HostStream> {
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, FLAGS, None)?;
        match rustix::net::connect(&socket, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => self.adopter.adopt(socket, id),
            Err(error) => Err(error.into()),
        }
    }

    fn udp(&mut self, id: SocketId) -> io::Result<HostDatagrams> {
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, FLAGS, None)?;
        self.datagrams(socket, id)
    }

    fn ping(&mut self, id: SocketId) -> io::Result<HostDatagrams> {
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, FLAGS, Some(ipproto::ICMP))?;
        self.datagrams(socket, id)
    }

    fn boot_file(&mut self, name: &str) -> io::Result<Box<dyn BootFile>> {
        let folder = self.folder.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(folder.open(name)?))
    }
}

/// A TCP connection.
pub struct HostStream {
    socket: OwnedFd,
    discard: Rc<RefCell<Vec<u8>>>,
    /// The kernel can peek from the middle.
    peek_offset: bool,
}

impl HostStream {
    /// For kernels that peek only from the start: what comes first goes into a buffer that nobody reads.
    fn peek_over(&self, skip: usize, buffer: &mut [u8]) -> io::Result<usize> {
        let mut discard = self.discard.borrow_mut();
        if skip == 0 {
            return Ok(rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::PEEK)?.0);
        }
        let Some(first) = discard.get_mut(..skip) else { return Err(io::ErrorKind::WouldBlock.into()) };
        let mut ended = false;
        loop {
            let mut parts = [IoSliceMut::new(&mut *first), IoSliceMut::new(&mut *buffer)];
            let mut control = RecvAncillaryBuffer::default();
            let read = rustix::net::recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::PEEK)?.bytes;
            match read.saturating_sub(skip) {
                0 if ended => return Ok(0),
                0 => {
                    // Nothing more is there, or nothing more will come. What came before the end is there by now.
                    let mut ready = [PollFd::new(&self.socket, PollFlags::RDHUP)];
                    if poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? == 0 {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    ended = true;
                }
                len => return Ok(len),
            }
        }
    }
}

impl Stream for HostStream {
    fn connected(&mut self) -> io::Result<()> {
        sockopt::socket_error(&self.socket)??;
        match rustix::net::getpeername(&self.socket) {
            Ok(_) => Ok(()),
            Err(Errno::NOTCONN) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL)?)
    }

    fn peek(&mut self, skip: usize, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.peek_offset {
            return self.peek_over(skip, buffer);
        }
        let offset = i32::try_from(skip).map_err(|_| io::ErrorKind::WouldBlock)?;
        set_peek_offset(&self.socket, offset)?;
        Ok(rustix::net::recv(&self.socket, buffer, RecvFlags::PEEK)?.0)
    }

    fn consume(&mut self, len: usize) -> io::Result<()> {
        let mut discard = self.discard.borrow_mut();
        let mut left = len;
        while left > 0 {
            let step = left.min(DISCARD);
            let (_, taken) = rustix::net::recv(&self.socket, &mut discard[..step], RecvFlags::TRUNC)?;
            if taken == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= taken;
        }
        Ok(())
    }

    fn finish(&mut self) {
        // It may be gone already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }

    fn abort(&mut self) {
        let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
    }
}

/// A UDP socket, or one for ICMP echo.
pub struct HostDatagrams(OwnedFd);

impl Datagrams for HostDatagrams {
    fn send(&mut self, to: SocketAddrV4, payload: &[u8]) -> io::Result<()> {
        rustix::net::sendto(&self.0, payload, SendFlags::NOSIGNAL, &to)?;
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddrV4)> {
        loop {
            let (_, len, from) = rustix::net::recvfrom(&self.0, &mut *buffer, RecvFlags::empty())?;
            if let Some(SocketAddr::V4(from)) = from.and_then(|from| SocketAddr::try_from(from).ok()) {
                return Ok((len, from));
            }
        }
    }
}
