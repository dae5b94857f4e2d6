//! Forwarded UDP ports: which client of which socket a guest's datagram answers.

use crate::host::{Datagrams, SocketId};
use bulkhead_reactor::Time;
use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::time::Duration;

/// Clients that are remembered.
const MOST: usize = 4096;
const IDLE: Duration = Duration::from_secs(180);

struct Client {
    socket: SocketId,
    address: SocketAddrV4,
    expires: Time,
}

/// The sockets, and who has sent something through them.
pub(crate) struct UdpForwards<D> {
    sockets: HashMap<SocketId, (SocketAddrV4, D)>,
    /// By the guest, and by what the client looks like to it.
    clients: HashMap<(SocketAddrV4, SocketAddrV4), Client>,
}

impl<D: Datagrams> UdpForwards<D> {
    pub fn new() -> UdpForwards<D> {
        UdpForwards { sockets: HashMap::new(), clients: HashMap::new() }
    }

    pub fn insert(&mut self, id: SocketId, guest: SocketAddrV4, socket: D) {
        self.sockets.insert(id, (guest, socket));
    }

    pub fn remove(&mut self, id: SocketId) {
        self.sockets.remove(&id);
        self.clients.retain(|_, client| client.socket != id);
    }

    pub fn owns(&self, id: SocketId) -> bool {
        self.sockets.contains_key(&id)
    }

    /// The next datagram: the guest it is for, what its client looks like, its length.
    pub fn receive(
        &mut self,
        now: Time,
        id: SocketId,
        buffer: &mut [u8],
        shown: impl Fn(SocketAddrV4) -> SocketAddrV4,
    ) -> Option<(SocketAddrV4, SocketAddrV4, usize)> {
        let (guest, socket) = self.sockets.get_mut(&id)?;
        let guest = *guest;
        let (len, address) = socket.receive(buffer).ok()?;
        if self.clients.len() >= MOST {
            self.clients.retain(|_, client| client.expires > now);
        }
        if self.clients.len() >= MOST {
            // So many at once are no use of a forward; whoever is next starts anew.
            self.clients.clear();
        }
        let shown = shown(address);
        self.clients.insert((guest, shown), Client { socket: id, address, expires: now + IDLE });
        Some((guest, shown, len))
    }

    /// A guest's datagram, if it answers a client. False if it does not.
    pub fn answer(&mut self, now: Time, guest: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> bool {
        let Some(client) = self.clients.get_mut(&(guest, to)).filter(|client| client.expires > now) else {
            return false;
        };
        client.expires = now + IDLE;
        if let Some((_, socket)) = self.sockets.get_mut(&client.socket) {
            // A lost datagram is no error.
            let _ = socket.send(client.address, payload);
        }
        true
    }
}
