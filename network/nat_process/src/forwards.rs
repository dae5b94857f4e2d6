//! Ports of the host that lead to guests: sockets that listen.

use crate::plug::RingLink;
use crate::sockets::Sockets;
use anyhow::{Context, Result, bail};
use bulkhead_nat::{Forwarded, Io, Nat, SocketId};
use bulkhead_nat_protocol::{Forward, Protocol};
use rustix::event::epoll::{self, EventData, EventFlags};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// What the numbers of forwarded ports have in the top byte.
const KIND: u64 = 4;

/// The listening sockets.
pub struct Forwards {
    epoll: Rc<OwnedFd>,
    last: u64,
    tcp: HashMap<u64, (Forward, TcpListener)>,
    udp: HashMap<u64, Forward>,
}

impl Forwards {
    pub fn new(epoll: Rc<OwnedFd>) -> Forwards {
        Forwards { epoll, last: 0, tcp: HashMap::new(), udp: HashMap::new() }
    }

    /// Opens a port.
    ///
    /// # Errors
    /// It is in use, or needs a privilege.
    pub fn add(&mut self, forward: Forward, nat: &mut Nat<Sockets>, sockets: &Sockets) -> Result<()> {
        let what = || format!("cannot listen at {} for {}", forward.listen, forward.guest);
        self.last += 1;
        let id = KIND << 56 | self.last;
        match forward.protocol {
            Protocol::Tcp => {
                let listener = TcpListener::bind(forward.listen).with_context(what)?;
                listener.set_nonblocking(true).with_context(what)?;
                epoll::add(&*self.epoll, &listener, EventData::new_u64(id), EventFlags::IN).with_context(what)?;
                self.tcp.insert(id, (forward, listener));
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(forward.listen).with_context(what)?;
                socket.set_nonblocking(true).with_context(what)?;
                let datagrams = sockets.adopt_datagrams(socket.into(), SocketId(id)).with_context(what)?;
                nat.forward_udp(SocketId(id), &forward, datagrams);
                self.udp.insert(id, forward);
            }
        }
        Ok(())
    }

    /// Closes a port. Connections that came through it go on.
    ///
    /// # Errors
    /// There is no such forward.
    pub fn remove(&mut self, forward: Forward, nat: &mut Nat<Sockets>) -> Result<()> {
        let tcp = self.tcp.iter().find(|(_, (other, _))| *other == forward).map(|(id, _)| *id);
        let udp = self.udp.iter().find(|(_, other)| **other == forward).map(|(id, _)| *id);
        if let Some(id) = tcp {
            self.tcp.remove(&id);
        } else if let Some(id) = udp {
            self.udp.remove(&id);
            nat.remove_forward_udp(SocketId(id));
        } else {
            bail!("there is no forward from {} to {}", forward.listen, forward.guest);
        }
        Ok(())
    }

    /// Whether a number is one of a forwarded TCP port.
    pub fn listens(&self, id: u64) -> bool {
        self.tcp.contains_key(&id)
    }

    /// Takes the connections that came to a port.
    pub fn take(&mut self, id: u64) -> Vec<Accepted> {
        let Some((forward, listener)) = self.tcp.get(&id) else { return Vec::new() };
        let mut taken = Vec::new();
        while let Ok((stream, client)) = listener.accept() {
            let SocketAddr::V4(client) = client else { continue };
            if stream.set_nonblocking(true).is_ok() {
                let forwarded = Forwarded { client, guest: *forward.guest.ip(), port: forward.guest.port() };
                taken.push(Accepted { stream, forwarded });
            }
        }
        taken
    }
}

/// A connection that came to a forwarded port.
pub struct Accepted {
    stream: TcpStream,
    forwarded: Forwarded,
}

impl Accepted {
    /// Hands it to the NAT.
    pub fn give(self, nat: &mut Nat<Sockets>, io: &mut Io<'_, Sockets, RingLink>) {
        let Accepted { stream, forwarded } = self;
        let adopted = io.host.adopter();
        if let Err(error) = nat.accept(io, forwarded, |id| adopted.adopt(stream.into(), id)) {
            tracing::warn!("a connection from {} was dropped: {error}", forwarded.client);
        }
    }
}
