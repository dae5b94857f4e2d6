//! Where the NAT is plugged in: a port of a switch, which may restart; or a socket at which one network adapter attaches.

use anyhow::{Context, Result, bail};
use bulkhead_linux::{SeqPacket, SeqPacketListener};
use bulkhead_nat::Link;
use bulkhead_packets::{FrameMeta, MacAddress};
use bulkhead_port::{
    AttachError, AttachOptions, Connector, Port, PortControl, PortInfo, PortRing, RingError, RingSize, accept, refuse,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The gateway's address where no switch gives it one: of Hyper-V's range, with an end that no host's pool begins with.
const GATEWAY: MacAddress = MacAddress([0x00, 0x15, 0x5d, 0x00, 0x00, 0x01]);

/// Room for a few of the longest frames each way.
const RING: u32 = 4 << 20;

/// How the port comes about.
pub enum Plug {
    /// By attaching to a switch.
    Switch(Connector),
    /// By waiting for one adapter.
    Adapter {
        /// Where it attaches.
        listener: SeqPacketListener,
        /// What it has to say.
        ticket: String,
        /// What it is told.
        info: PortInfo,
    },
}

/// What keeps a port alive.
enum Control {
    Switch(PortControl),
    Adapter(SeqPacket),
}

/// A port that works.
pub struct Plugged {
    pub link: RingLink,
    control: Control,
    /// The gateway's address, and whether frames may be left to be completed.
    pub mac: MacAddress,
    pub offload: bool,
}

impl Plug {
    /// For one adapter.
    ///
    /// # Errors
    /// The descriptor is no listening socket.
    pub fn adapter(listener: OwnedFd, ticket: String, mac: String, mtu: u16) -> Result<Plug> {
        let listener = SeqPacketListener::from(listener);
        listener.set_nonblocking(true).context("cannot use the socket for the adapter")?;
        let info = PortInfo { switch: "nat".into(), port: "nat".into(), mac, mtu, link_up: true };
        Ok(Plug::Adapter { listener, ticket, info })
    }

    /// What to wait for while there is no port; `None`: try again after a while.
    pub fn readable(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Plug::Switch(_) => None,
            Plug::Adapter { listener, .. } => Some(listener.as_fd()),
        }
    }

    /// Gets a port, if that is possible now.
    ///
    /// # Errors
    /// The switch refuses it.
    pub fn plug_in(&self) -> Result<Option<Plugged>> {
        match self {
            Plug::Switch(connector) => {
                let size = RingSize::new(RING)?;
                match Port::attach(connector, size, AttachOptions::ALL) {
                    Ok(Port { ring, control }) => {
                        let mac = control.info().mac.parse().context("the switch gave the NAT no address")?;
                        let link = RingLink::new(ring);
                        Ok(Some(Plugged { link, control: Control::Switch(control), mac, offload: true }))
                    }
                    // It may be restarting.
                    Err(AttachError::Connect { .. } | AttachError::NoAnswer) => Ok(None),
                    Err(error) => Err(error).context("cannot attach the NAT to its switch"),
                }
            }
            Plug::Adapter { listener, ticket, info } => {
                let Ok(socket) = listener.accept() else { return Ok(None) };
                match attach(&socket, ticket, info) {
                    Ok((ring, options)) => {
                        let offload = options.partial_checksum && options.tcp_segmentation;
                        let link = RingLink::new(ring);
                        Ok(Some(Plugged { link, control: Control::Adapter(socket), mac: GATEWAY, offload }))
                    }
                    Err(error) => {
                        tracing::warn!("an adapter was refused: {error:#}");
                        refuse(&socket, format!("{error:#}"));
                        Ok(None)
                    }
                }
            }
        }
    }
}

fn attach(socket: &SeqPacket, ticket: &str, info: &PortInfo) -> Result<(PortRing, AttachOptions)> {
    let Some(message) = socket.receive()? else { bail!("it closed the connection") };
    let offer = accept(message)?;
    if offer.ticket() != ticket {
        bail!("another ticket was expected");
    }
    let options = offer.options();
    let (ring, welcome) = offer.attach()?;
    welcome.send(socket, info)?;
    socket.set_nonblocking(true)?;
    Ok((ring, options))
}

impl Plugged {
    /// Readable when the other side has news, or is gone.
    pub fn control(&self) -> BorrowedFd<'_> {
        match &self.control {
            Control::Switch(control) => control.readable(),
            Control::Adapter(socket) => socket.as_fd(),
        }
    }

    /// Takes news. False when the other side is gone.
    pub fn news(&mut self) -> bool {
        match &mut self.control {
            Control::Switch(control) => control.news().is_ok(),
            Control::Adapter(socket) => match socket.receive() {
                Ok(Some(_)) => true,
                Ok(None) => false,
                Err(error) => error.is_would_block(),
            },
        }
    }
}

/// The port as the NAT's link.
pub struct RingLink {
    pub ring: PortRing,
    /// The port is broken or the other side gone.
    pub failed: bool,
    pub lost: u64,
}

impl RingLink {
    fn new(ring: PortRing) -> RingLink {
        RingLink { ring, failed: false, lost: 0 }
    }

    /// Notes a failure of the port.
    pub fn note<T>(&mut self, result: Result<T, RingError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                if !self.failed {
                    tracing::info!("the port is closed: {error}");
                }
                self.failed = true;
                None
            }
        }
    }

    /// Makes what was sent visible.
    pub fn publish(&mut self) {
        let result = self.ring.tx.publish();
        self.note(result);
    }
}

impl Link for RingLink {
    fn room(&mut self, len: usize) -> bool {
        if self.failed {
            return false;
        }
        for _ in 0..2 {
            let result = self.ring.tx.reserve(len).map(|slot| slot.is_some());
            if self.note(result) != Some(false) {
                return !self.failed;
            }
            let waits = self.ring.tx.wait_for_room();
            // Half of the ring is free already: the second try succeeds.
            if self.note(waits) != Some(false) {
                return false;
            }
        }
        false
    }

    fn send(&mut self, meta: &FrameMeta, parts: &[&[u8]]) {
        let result = self.ring.tx.send(meta, parts);
        if self.note(result) == Some(false) {
            self.lost += 1;
        }
    }
}
