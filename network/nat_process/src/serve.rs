//! The loop: waits for frames, sockets, the starter and time, and lets the NAT work.

use crate::control::{self, Start};
use crate::forwards::Forwards;
use crate::plug::{Plug, Plugged, RingLink};
use crate::sandbox;
use crate::sockets::Sockets;
use anyhow::{Context, Result};
use bulkhead_linux::SeqPacket;
use bulkhead_nat::{Io, Nat, SocketId};
use bulkhead_nat_protocol::{NatAnswer, NatConfig};
use bulkhead_packets::{FrameMeta, MacAddress};
use bulkhead_reactor::Time;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use std::hash::RandomState;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

/// Numbers towards epoll that are no sockets of the NAT.
const STARTER: u64 = 0;
const PORT: u64 = 1;
const PORT_CONTROL: u64 = 2;
const LISTENER: u64 = 3;
/// Frames that are taken from the port before sockets have their turn.
const BATCH: usize = 256;
/// How often a switch that is not there is looked for.
const RETRY: Duration = Duration::from_millis(100);

/// Everything that works together.
pub struct Server {
    pub nat: Nat<Sockets>,
    pub sockets: Sockets,
    pub forwards: Forwards,
    pub config: NatConfig,
    epoll: Rc<OwnedFd>,
    plug: Plug,
    plugged: Option<Plugged>,
    frame: Vec<u8>,
    /// When it started, by the host's monotonic clock.
    clock: Duration,
}

/// Serves one NAT network until the starter closes its socket. With `sandboxed` the process first gives up everything that it
/// does not need.
///
/// # Errors
/// The start is refused; the host lacks something; the switch refuses the port.
pub fn run(starter: SeqPacket, sandboxed: bool) -> Result<()> {
    let Some(Start { id, config, plug, folder }) = control::first(&starter)? else { return Ok(()) };
    let epoll = Rc::new(epoll::create(CreateFlags::CLOEXEC).context("cannot wait for several things at once")?);
    let nat = Nat::new(&config, MacAddress::default(), false, RandomState::new())?;
    let mut server = Server {
        nat,
        sockets: Sockets::new(epoll.clone(), folder),
        forwards: Forwards::new(epoll.clone()),
        config,
        epoll,
        plug,
        plugged: None,
        frame: Vec::new(),
        clock: monotonic(),
    };
    let started = server.start(&starter, sandboxed);
    let told = started.as_ref().map(|()| NatAnswer::Done).map_err(|error| format!("{error:#}"));
    control::answer(&starter, id, told)?;
    started?;
    starter.set_nonblocking(true)?;
    server.serve(&starter)
}

fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

impl Server {
    /// The time since the start.
    pub fn now(&self) -> Time {
        Time::ZERO + (monotonic() - self.clock)
    }

    fn start(&mut self, starter: &SeqPacket, sandboxed: bool) -> Result<()> {
        epoll::add(&*self.epoll, starter, EventData::new_u64(STARTER), EventFlags::IN)?;
        for forward in self.config.forwards.clone() {
            self.forwards.add(forward, &mut self.nat, &self.sockets)?;
        }
        if let Some(listener) = self.plug.readable() {
            epoll::add(&*self.epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        } else {
            self.plug_in()?;
        }
        if sandboxed {
            sandbox::enter(self.sockets.folder()).context("cannot give up privileges")?;
        }
        Ok(())
    }

    fn plug_in(&mut self) -> Result<()> {
        let Some(plugged) = self.plug.plug_in()? else { return Ok(()) };
        // Frames are looked at in every turn; the wake-up only ends the wait.
        epoll::add(&*self.epoll, &plugged.link.ring.wake, EventData::new_u64(PORT), EventFlags::IN)?;
        epoll::add(&*self.epoll, plugged.control(), EventData::new_u64(PORT_CONTROL), EventFlags::IN)?;
        self.nat.set_port(plugged.mac, plugged.offload);
        self.plugged = Some(plugged);
        tracing::info!("the port is connected");
        Ok(())
    }

    fn serve(&mut self, starter: &SeqPacket) -> Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(256);
        let mut busy = false;
        loop {
            let timeout = self.timeout(busy);
            events.clear();
            match epoll::wait(&*self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait"),
            }
            let mut room = false;
            for event in &events {
                match event.data.u64() {
                    STARTER => {
                        if !control::answer_all(self, starter) {
                            return Ok(());
                        }
                    }
                    PORT => {
                        let cleared = self.plugged.as_ref().is_some_and(|port| port.link.ring.wake.clear().is_ok());
                        if !cleared {
                            self.plugged = None;
                        }
                        room = true;
                    }
                    PORT_CONTROL => {
                        if self.plugged.as_mut().is_some_and(|plugged| !plugged.news()) {
                            tracing::info!("the other side of the port is gone");
                            self.plugged = None;
                        }
                    }
                    LISTENER => self.plug_in()?,
                    socket => self.socket_ready(socket),
                }
            }
            busy = self.work(room);
            if self.plugged.is_none() && self.plug.readable().is_none() {
                self.plug_in()?;
            }
        }
    }

    fn timeout(&self, busy: bool) -> Option<Timespec> {
        let until = match self.nat.deadline() {
            _ if busy => Some(Duration::ZERO),
            deadline => deadline.map(|at| at - self.now()),
        };
        let waits_for_switch = self.plugged.is_none() && self.plug.readable().is_none();
        let until = if waits_for_switch { Some(until.map_or(RETRY, |until| until.min(RETRY))) } else { until };
        until.map(|until| Timespec { tv_sec: until.as_secs().cast_signed(), tv_nsec: until.subsec_nanos().into() })
    }

    fn socket_ready(&mut self, id: u64) {
        let now = self.now();
        let Server { nat, sockets, forwards, plugged, .. } = self;
        // Without a port nothing can go to guests; what waits is sent again when there is one.
        let Some(Plugged { link, .. }) = plugged else { return };
        if forwards.listens(id) {
            let taken = forwards.take(id);
            let mut io = Io { now, host: sockets, link };
            for accepted in taken {
                accepted.give(nat, &mut io);
            }
            return;
        }
        let mut io = Io { now, host: sockets, link };
        nat.stream_ready(&mut io, SocketId(id));
        nat.datagrams_ready(&mut io, SocketId(id));
    }

    /// Takes frames and does what is due. True if there are more frames.
    fn work(&mut self, room: bool) -> bool {
        let now = self.now();
        let Server { nat, sockets, plugged, frame, .. } = self;
        let Some(Plugged { link, .. }) = plugged else { return false };
        if room {
            nat.link_ready(&mut Io { now, host: sockets, link });
        }
        let mut more = true;
        for _ in 0..BATCH {
            match next_frame(link, frame) {
                Some(meta) => nat.frame(&mut Io { now, host: sockets, link }, frame, &meta),
                None => {
                    more = false;
                    break;
                }
            }
        }
        let mut io = Io { now, host: sockets, link };
        if nat.deadline().is_some_and(|at| at <= now) {
            nat.tick(&mut io);
        }
        nat.flush(&mut io);
        link.publish();
        if !more && !link.failed {
            let sleeps = link.ring.rx.sleep();
            more = !link.note(sleeps).unwrap_or(true);
        }
        if link.failed {
            self.plugged = None;
        }
        more
    }
}

/// Copies the next frame out of the port.
fn next_frame(link: &mut RingLink, frame: &mut Vec<u8>) -> Option<FrameMeta> {
    let result = link.ring.rx.peek().and_then(|waiting| match waiting {
        Some(waiting) => {
            waiting.read_all(frame)?;
            Ok(Some(*waiting.meta()))
        }
        None => Ok(None),
    });
    let meta = link.note(result)??;
    link.ring.rx.advance();
    let released = link.ring.rx.release_some();
    link.note(released);
    Some(meta)
}
