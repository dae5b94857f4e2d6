//! UDP and ICMP echo: one socket of the host for each port (or echo identifier) of a guest.
//!
//! The mapping is the same for all destinations (RFC 4787, "endpoint-independent"); answers are let in only from where the guest
//! has sent something.

use crate::host::{Datagrams, Host, SocketId};
use bulkhead_packets::MacAddress;
use bulkhead_reactor::Time;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// Sockets at the same time.
const MOST: usize = 4096;
/// Destinations that a socket remembers; of more, the first ones are forgotten.
const MOST_PEERS: usize = 64;
/// How long a silent one lives (RFC 4787: two minutes at least).
const IDLE: Duration = Duration::from_secs(180);
const IDLE_PING: Duration = Duration::from_secs(30);
/// What their socket ids have in the top byte.
const KIND: u64 = 2;

/// Which port of which guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    pub guest: Ipv4Addr,
    /// Port, or echo identifier.
    pub port: u16,
    pub ping: bool,
}

/// One socket.
pub(crate) struct Mapping<D> {
    pub source: Source,
    pub mac: MacAddress,
    pub socket: D,
    peers: Vec<SocketAddrV4>,
    expires: Time,
}

/// All of them.
pub(crate) struct Mappings<D> {
    by_id: HashMap<SocketId, Mapping<D>>,
    by_source: HashMap<Source, SocketId>,
    last: u64,
    next_sweep: Time,
    pub refused: u64,
}

impl<D: Datagrams> Mappings<D> {
    pub fn new() -> Mappings<D> {
        Mappings { by_id: HashMap::new(), by_source: HashMap::new(), last: 0, next_sweep: Time::MAX, refused: 0 }
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Sends a datagram of a guest.
    pub fn send<H: Host<Datagrams = D>>(
        &mut self,
        now: Time,
        source: Source,
        mac: MacAddress,
        to: SocketAddrV4,
        payload: &[u8],
        host: &mut H,
    ) {
        let id = match self.by_source.get(&source) {
            Some(id) => *id,
            None => match self.open(now, source, mac, host) {
                Ok(id) => id,
                Err(_) => {
                    self.refused += 1;
                    return;
                }
            },
        };
        let Some(mapping) = self.by_id.get_mut(&id) else { return };
        mapping.mac = mac;
        mapping.expires = now + if source.ping { IDLE_PING } else { IDLE };
        if !mapping.peers.contains(&to) {
            if mapping.peers.len() == MOST_PEERS {
                mapping.peers.remove(0);
            }
            mapping.peers.push(to);
        }
        // A lost datagram is no error.
        let _ = mapping.socket.send(to, payload);
    }

    fn open<H: Host<Datagrams = D>>(
        &mut self,
        now: Time,
        source: Source,
        mac: MacAddress,
        host: &mut H,
    ) -> io::Result<SocketId> {
        if self.by_id.len() >= MOST {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        self.last += 1;
        let id = SocketId(KIND << 56 | self.last & ((1 << 56) - 1));
        let socket = if source.ping { host.ping(id)? } else { host.udp(id)? };
        self.next_sweep = self.next_sweep.min(now + IDLE_PING);
        self.by_source.insert(source, id);
        self.by_id.insert(id, Mapping { source, mac, socket, peers: Vec::new(), expires: now + IDLE });
        Ok(id)
    }

    /// The next datagram for a guest, from somebody to whom it has sent: its length and where it is from.
    pub fn receive(&mut self, id: SocketId, buffer: &mut [u8]) -> Option<(&Mapping<D>, usize, SocketAddrV4)> {
        let mapping = self.by_id.get_mut(&id)?;
        loop {
            match mapping.socket.receive(buffer) {
                Ok((len, from)) if mapping.peers.contains(&from) => return Some((mapping, len, from)),
                Ok(_) => {}
                // Errors are news of earlier datagrams (refused, unreachable); the next call shows what is behind them.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return None,
            }
        }
    }

    /// When silent sockets are looked for next.
    pub fn deadline(&self) -> Option<Time> {
        (self.next_sweep != Time::MAX).then_some(self.next_sweep)
    }

    /// Closes sockets that were silent for too long.
    pub fn tick(&mut self, now: Time) {
        if now < self.next_sweep {
            return;
        }
        let by_source = &mut self.by_source;
        self.by_id.retain(|_, mapping| {
            let stays = mapping.expires > now;
            if !stays {
                by_source.remove(&mapping.source);
            }
            stays
        });
        self.next_sweep = if self.by_id.is_empty() { Time::MAX } else { now + IDLE_PING };
    }
}
