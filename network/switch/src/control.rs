//! The control side: sockets of managing programs and of ports, served by one thread.

use crate::plane::{News, NewsDesk, now};
use crate::registry::Registry;
use crate::requests;
use anyhow::{Context, Result};
use bulkhead_ids::PortId;
use bulkhead_linux::{EventFd, SeqPacket, SeqPacketListener, Signal, SignalFd};
use bulkhead_port as port;
use bulkhead_switch_protocol::{FromSwitch, Problem, ProblemKind, ToSwitch, paths};
use crossbeam_channel::Receiver;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

const CONTROL: u64 = 0;
const PORTS: u64 = 1;
const NEWS: u64 = 2;
const SIGNALS: u64 = 3;
const FIRST_CONNECTION: u64 = 16;
/// Connections that may be open at once; the oldest that has not attached anything goes first.
const MAX_CONNECTIONS: usize = 4096;

/// One connection.
enum Connection {
    /// A managing program, and the captures that end with it.
    Manager { socket: SeqPacket, captures: Vec<PortId> },
    /// Somebody who has yet to show a ticket.
    Stranger(SeqPacket),
    /// The owner of a port. The socket is with the port.
    Owner(PortId),
}

struct Control {
    registry: Registry,
    epoll: OwnedFd,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    news: Receiver<News>,
    wake: Arc<EventFd>,
}

/// Runs until a signal ends it.
///
/// # Errors
/// Sockets or folders cannot be made.
pub fn run(root: &Path) -> Result<()> {
    let signals = SignalFd::new(&[Signal::Terminate, Signal::Interrupt]).context("cannot take signals")?;
    let wake = Arc::new(EventFd::new()?);
    let (sender, news) = crossbeam_channel::unbounded();
    let registry = Registry::open(root, NewsDesk { news: sender, wake: wake.clone() })?;
    let control = SeqPacketListener::bind(paths::control_socket(root), 0o600)
        .with_context(|| format!("cannot listen at {}", paths::control_socket(root).display()))?;
    // Anybody may knock: a ticket opens.
    let ports = SeqPacketListener::bind(paths::ports_socket(root), 0o666)
        .with_context(|| format!("cannot listen at {}", paths::ports_socket(root).display()))?;
    control.set_nonblocking(true)?;
    ports.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (fd, token) in
        [(control.as_fd(), CONTROL), (ports.as_fd(), PORTS), (wake.as_fd(), NEWS), (signals.as_fd(), SIGNALS)]
    {
        epoll::add(&epoll, fd, EventData::new_u64(token), EventFlags::IN)?;
    }
    let mut this = Control { registry, epoll, connections: BTreeMap::new(), next: FIRST_CONNECTION, news, wake };
    let mut events = Vec::with_capacity(64);
    let mut busy = this.registry.tend();
    loop {
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        events.clear();
        match epoll::wait(&this.epoll, spare_capacity(&mut events), busy.then_some(&second)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for messages"),
        }
        for event in &events {
            match event.data.u64() {
                CONTROL => this.accept(&control, |socket| Connection::Manager { socket, captures: Vec::new() }),
                PORTS => this.accept(&ports, Connection::Stranger),
                NEWS => this.take_news(),
                SIGNALS => return Ok(()),
                token => this.serve(token),
            }
        }
        if busy || !events.is_empty() {
            busy = this.registry.tend();
        }
    }
}

impl Control {
    fn accept(&mut self, listener: &SeqPacketListener, kind: impl Fn(SeqPacket) -> Connection) {
        while let Ok(socket) = listener.accept() {
            let token = self.next;
            self.next += 1;
            let registered = socket
                .set_nonblocking(true)
                .and_then(|()| Ok(epoll::add(&self.epoll, &socket, EventData::new_u64(token), EventFlags::IN)?));
            match registered {
                Ok(()) => drop(self.connections.insert(token, kind(socket))),
                Err(error) => tracing::error!("cannot serve a connection: {error}"),
            }
            if self.connections.len() > MAX_CONNECTIONS {
                let stranger = |(_, connection): &(&u64, &Connection)| matches!(connection, Connection::Stranger(_));
                if let Some((&oldest, _)) = self.connections.iter().find(stranger) {
                    self.connections.remove(&oldest);
                }
            }
        }
    }

    fn take_news(&mut self) {
        // Cannot fail for our own eventfd.
        let _ = self.wake.take();
        while let Ok(news) = self.news.try_recv() {
            self.registry.note(&news);
        }
    }

    /// Something came over a connection, or it was closed.
    fn serve(&mut self, token: u64) {
        match self.connections.get(&token) {
            Some(Connection::Manager { .. }) => self.serve_manager(token),
            Some(Connection::Stranger(_)) => self.serve_stranger(token),
            Some(&Connection::Owner(port)) => self.serve_owner(token, port),
            None => {}
        }
    }

    fn serve_manager(&mut self, token: u64) {
        let Some(Connection::Manager { socket, captures }) = self.connections.get_mut(&token) else { return };
        let packet = match socket.receive() {
            Ok(Some(packet)) => packet,
            Err(error) if error.is_would_block() => return,
            Ok(None) | Err(_) => {
                for port in std::mem::take(captures) {
                    requests::stop_capture(&self.registry, port);
                }
                self.connections.remove(&token);
                return;
            }
        };
        let (id, result) = match serde_json::from_slice::<ToSwitch>(&packet.bytes) {
            Ok(ToSwitch { id, request }) => {
                (id, requests::answer(&mut self.registry, request, packet.descriptors, captures))
            }
            Err(error) => {
                let message = format!("a message of {} bytes is no request: {error}", packet.bytes.len());
                (0, Err(Problem { kind: ProblemKind::Invalid, message }))
            }
        };
        // Longer than a packet cannot be: answers come in pages. A program that does not read its answers loses them.
        match serde_json::to_vec(&FromSwitch { id, result }) {
            Ok(bytes) => drop(socket.send(&bytes, &[])),
            Err(error) => tracing::error!("cannot answer: {error}"),
        }
    }

    fn serve_stranger(&mut self, token: u64) {
        let Some(Connection::Stranger(socket)) = self.connections.remove(&token) else { return };
        let packet = match socket.receive() {
            Ok(Some(packet)) => packet,
            Err(error) if error.is_would_block() => {
                self.connections.insert(token, Connection::Stranger(socket));
                return;
            }
            Ok(None) | Err(_) => return,
        };
        match self.attach(packet, socket, token) {
            Ok(port) => drop(self.connections.insert(token, Connection::Owner(port))),
            Err((socket, message)) => {
                tracing::warn!("a port was refused: {message}");
                port::refuse(&socket, message);
            }
        }
    }

    /// Attaches a port, in place of whoever had it: an owner that comes again has restarted.
    fn attach(
        &mut self,
        packet: bulkhead_linux::Message,
        socket: SeqPacket,
        token: u64,
    ) -> Result<PortId, (SeqPacket, String)> {
        let offer = match port::accept(packet) {
            Ok(offer) => offer,
            Err(error) => return Err((socket, error.to_string())),
        };
        let Some(id) = self.registry.port_of_ticket(offer.ticket()) else {
            return Err((socket, "no port has this ticket; it was removed".into()));
        };
        let registry = &mut self.registry;
        let Some(port) = registry.ports.get_mut(&id) else { return Err((socket, "no such port".into())) };
        let Some(switch) = registry.switches.get(&port.record.switch) else {
            return Err((socket, "its switch does not exist".into()));
        };
        if let Some((old, _)) = port.attached.take() {
            self.connections.remove(&old);
        }
        let (options, place) = (offer.options(), port.place);
        let (ring, welcome) = match offer.attach() {
            Ok(rings) => rings,
            Err(error) => return Err((socket, format!("cannot make its pipes: {error}"))),
        };
        match switch.plane.call(move |plane| plane.attach_ring(place, ring, options)) {
            Some(Ok(())) => {
                if let Err(error) = welcome.send(&socket, &port.info(&switch.definition)) {
                    switch.plane.call(move |plane| plane.unlink(place));
                    return Err((socket, error.to_string()));
                }
                port.attached = Some((token, socket));
                port.last_attached = now();
                Ok(id)
            }
            Some(Err(error)) => Err((socket, format!("cannot attach: {error}"))),
            None => Err((socket, "the data plane is gone".into())),
        }
    }

    /// Owners have nothing to say after the handshake: what comes is the end.
    fn serve_owner(&mut self, token: u64, id: PortId) {
        let Some(port) = self.registry.ports.get_mut(&id) else {
            self.connections.remove(&token);
            return;
        };
        let Some((current, socket)) = &port.attached else { return };
        if *current != token || matches!(socket.receive(), Err(error) if error.is_would_block()) {
            return;
        }
        port.attached = None;
        port.last_attached = now();
        let (place, switch) = (port.place, port.record.switch);
        if let Some(switch) = self.registry.switches.get(&switch) {
            switch.plane.call(move |plane| plane.unlink(place));
        }
        self.connections.remove(&token);
    }
}
