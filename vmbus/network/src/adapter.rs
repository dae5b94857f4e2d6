//! The device: an adapter on VMBus and the port of a switch that it is plugged into.

use std::sync::{Arc, Weak};

use bulkhead_device::{Device, QuiesceToken};
use bulkhead_packets::MacAddress;
use bulkhead_port::{Nic, PortRing};
use bulkhead_reactor::{Interest, Reactor, Watch};
use bulkhead_saved_state::{SavedState, SavedStateError};
use bulkhead_vmbus_channel::{Channel, ChannelDevice, Offer, OpenRefused, Outgoing, Packet, PacketKind, class};
use parking_lot::Mutex;
use serde_json::json;
use uuid::{Uuid, uuid};

use crate::buffers::{Chain, ReceiveBuffer, SEND_SECTION, SendBuffer};
use crate::nvsp::{INDIRECTION_ENTRIES, Reply, Request, Status};
use crate::oid::Objects;
use crate::rndis::{self, Indication};
use crate::saved_state::{self, SavedNetworkAdapter};
use crate::session::{Action, Session};

/// Instances of adapters, with zeros where their address goes.
const INSTANCE: Uuid = uuid!("5d5c2f6a-94c1-4e0b-8c26-000000000000");
/// Packets and frames that are handled before others get a turn.
const TURN: usize = 256;
/// Answers to control messages that wait for a free section; a guest that asks for more breaks the protocol.
const MOST_REPLIES: usize = 64;
/// Longest IP packet of a guest that asks for nothing else.
const DEFAULT_MTU: u32 = 1500;

/// What an adapter is, for [`NetworkAdapter::new`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the device: `nic0`.
    pub name: String,
    /// Its address. The instance on the bus comes from it, so that the guest keeps the name of its interface.
    pub address: MacAddress,
    /// Speed that the guest is told, bit/s.
    pub link_speed: u64,
    /// Channels at most, 1 to 64: one per VP.
    pub max_channels: u16,
}

impl Config {
    /// What the bus offers.
    pub fn offer(&self) -> Offer {
        let instance = Uuid::from_u128(INSTANCE.as_u128() | u128::from(self.address.to_u64()));
        Offer::new(self.name.clone(), class::NETWORK, instance)
    }

    fn objects(&self) -> Objects {
        Objects {
            permanent: self.address,
            current: self.address,
            mtu: DEFAULT_MTU,
            link_speed: u32::try_from(self.link_speed / 100).unwrap_or(u32::MAX),
            link_up: false,
            filter: 0,
            multicast: Vec::new(),
            rss: crate::rss::Rss::default(),
            max_channels: self.max_channels.clamp(1, 64).into(),
            name: self.name.clone(),
        }
    }
}

/// A synthetic network adapter.
pub struct NetworkAdapter {
    config: Config,
    reactor: Reactor,
    me: Weak<Mutex<NetworkAdapter>>,
    pub(crate) objects: Objects,
    pub(crate) session: Session,
    pub(crate) channels: Vec<Option<Channel>>,
    pub(crate) receive_buffer: Option<ReceiveBuffer>,
    pub(crate) send_buffer: Option<SendBuffer>,
    /// Answers to control messages that wait for room.
    replies: Vec<Vec<u8>>,
    pub(crate) port: Option<Connection>,
    /// Between `pause` and `start`.
    paused: bool,
    pub(crate) counters: Counters,
    /// Put to use when the channels of a restored VM are opened.
    restored: Option<SavedNetworkAdapter>,
    /// Bytes of the frame at hand.
    pub(crate) scratch: Vec<u8>,
    packet: Packet,
}

/// The port of a switch.
pub(crate) struct Connection {
    pub(crate) ring: PortRing,
    _watch: Watch,
}

/// What became of frames.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    pub(crate) sent: u64,
    pub(crate) sent_bytes: u64,
    /// Not sent: no cable, no room in the port, or nothing that can be a frame.
    pub(crate) send_dropped: u64,
    pub(crate) received: u64,
    pub(crate) received_bytes: u64,
    /// The guest does not want them.
    pub(crate) filtered: u64,
    /// Longer than what the guest takes.
    pub(crate) too_long: u64,
}

impl NetworkAdapter {
    /// An adapter that is not plugged in.
    pub fn new(config: Config, reactor: &Reactor) -> Arc<Mutex<NetworkAdapter>> {
        NetworkAdapter::build(config, reactor, None)
    }

    /// The adapter as it was saved. The address must be the same.
    ///
    /// # Errors
    /// A saved state of another version, or one that is damaged.
    pub fn restored(
        config: Config,
        reactor: &Reactor,
        saved: &SavedState,
    ) -> Result<Arc<Mutex<NetworkAdapter>>, SavedStateError> {
        let saved: SavedNetworkAdapter = saved.decode(saved_state::VERSION..=saved_state::VERSION)?;
        Ok(NetworkAdapter::build(config, reactor, Some(saved)))
    }

    fn build(config: Config, reactor: &Reactor, restored: Option<SavedNetworkAdapter>) -> Arc<Mutex<NetworkAdapter>> {
        let objects = config.objects();
        Arc::new_cyclic(|me| {
            Mutex::new(NetworkAdapter {
                session: Session::default(),
                objects,
                reactor: reactor.clone(),
                me: me.clone(),
                channels: Vec::new(),
                receive_buffer: None,
                send_buffer: None,
                replies: Vec::new(),
                port: None,
                paused: restored.is_some(),
                counters: Counters::default(),
                restored,
                scratch: Vec::new(),
                packet: Packet::default(),
                config,
            })
        })
    }

    /// Whether the cable is in a port that works.
    pub fn is_connected(&self) -> bool {
        self.port.is_some()
    }

    /// The guest may be on another network now (after a migration, say), and should ask for addresses again.
    pub fn network_changed(&mut self) {
        self.indicate(Indication::NetworkChanged);
    }

    fn set_link(&mut self, up: bool) {
        if std::mem::replace(&mut self.objects.link_up, up) != up {
            self.indicate(if up { Indication::Connected } else { Indication::Disconnected });
        }
    }

    fn indicate(&mut self, event: Indication) {
        if self.session.initialized {
            self.reply(rndis::indicate(event));
            self.send_replies();
        }
    }

    fn port_woken(&mut self) {
        let Some(port) = &self.port else { return };
        match port.ring.wake.clear() {
            Ok(()) => self.run(),
            Err(_) => self.port_failed(),
        }
    }

    /// The switch is gone. Its successor is attached by whoever owns the adapter; until then frames are lost, and the guest is not
    /// told of a moment without a link.
    pub(crate) fn port_failed(&mut self) {
        self.port = None;
    }

    /// Does what can be done in both directions.
    fn run(&mut self) {
        if self.paused {
            return;
        }
        self.send_replies();
        for index in 0..self.channels.len() {
            self.read_channel(index);
        }
        self.receive_frames(TURN);
        self.publish_port();
    }

    /// Reads packets of a channel while the port has room.
    fn read_channel(&mut self, index: usize) {
        let mut packet = std::mem::take(&mut self.packet);
        for turn in 0.. {
            if !self.port_has_room() {
                break;
            }
            let Some(Some(channel)) = self.channels.get_mut(index) else { break };
            if turn == TURN {
                channel.wake();
                break;
            }
            if !channel.receive_into(&mut packet) {
                break;
            }
            self.packet(index, &packet);
        }
        if let Some(Some(channel)) = self.channels.get_mut(index) {
            channel.flush();
        }
        self.packet = packet;
    }

    fn packet(&mut self, index: usize, packet: &Packet) {
        let result = match packet.kind() {
            PacketKind::Completion => {
                let transaction = packet.transaction();
                let known = self.receive_buffer.as_mut().is_some_and(|buffer| buffer.release(transaction));
                if known { Ok(()) } else { Err("it gives back a receive section that it does not have") }
            }
            PacketKind::InBand | PacketKind::GpaDirect => self.request(index, packet),
            PacketKind::TransferPages => Err("guests do not send transfer pages"),
        };
        if let Err(reason) = result {
            self.fail(index, reason);
        }
    }

    pub(crate) fn fail(&mut self, index: usize, reason: &str) {
        if let Some(Some(channel)) = self.channels.get_mut(index) {
            channel.fail(&reason);
        }
    }

    fn request(&mut self, index: usize, packet: &Packet) -> Result<(), &'static str> {
        let request = Request::decode(packet.payload()).ok_or("an unknown NVSP message")?;
        if index > 0 && !matches!(request, Request::Rndis { .. }) {
            return Err("a sub-channel carries only frames");
        }
        let reply = match self.session.request(request, &mut self.objects)? {
            Action::Complete(reply) => Some(reply),
            Action::Nothing => None,
            Action::ReceiveBuffer { gpadl, id } => Some(self.set_receive_buffer(gpadl, id)),
            Action::RevokeReceiveBuffer => {
                self.receive_buffer = None;
                None
            }
            Action::SendBuffer { gpadl } => Some(self.set_send_buffer(gpadl)),
            Action::RevokeSendBuffer => {
                self.send_buffer = None;
                None
            }
            Action::Rndis { control, section, len } => {
                let status = self.rndis(control, section.map(|section| (section, len)), packet)?;
                Some(Reply::RndisComplete { status })
            }
            Action::Subchannels { count } => Some(self.make_subchannels(count)),
        };
        if packet.wants_completion() {
            let bytes = reply.map(|reply| reply.encode());
            let channel = self.channels[index].as_mut().ok_or("a closed channel")?;
            let payload = bytes.as_ref().map_or(&[][..], |bytes| bytes);
            // The guest made room for as many completions as it has requests in flight.
            channel
                .push(Outgoing::Completion { transaction: packet.transaction(), payload })
                .map_err(|_| "it leaves no room for completions")?;
        }
        if let Some(Reply::SubchannelsComplete { count: 1.., .. }) = reply {
            self.send_indirection_table();
        }
        Ok(())
    }

    fn set_receive_buffer(&mut self, handle: u32, id: u16) -> Reply {
        let gpadl = self.primary().and_then(|channel| channel.gpadl(handle));
        let max_frame = self.objects.max_frame();
        self.receive_buffer = gpadl.and_then(|gpadl| ReceiveBuffer::new(gpadl, handle, id, max_frame));
        let sections = self.receive_buffer.as_ref().map(|buffer| (buffer.section, buffer.count()));
        let status = if sections.is_some() { Status::Success } else { Status::Failure };
        let (section, count) = sections.unwrap_or((0, 0));
        Reply::ReceiveBufferComplete { status, section, count }
    }

    fn set_send_buffer(&mut self, handle: u32) -> Reply {
        let gpadl = self.primary().and_then(|channel| channel.gpadl(handle));
        self.send_buffer = gpadl.map(|gpadl| SendBuffer { gpadl, handle });
        let status = if self.send_buffer.is_some() { Status::Success } else { Status::Failure };
        Reply::SendBufferComplete { status, section: SEND_SECTION }
    }

    fn make_subchannels(&mut self, count: u16) -> Reply {
        let granted = self.primary().map_or(0, |channel| channel.grant_sub_channels(count));
        self.session.subchannels = granted;
        let status = if granted > 0 { Status::Success } else { Status::Failure };
        Reply::SubchannelsComplete { status, count: granted.into() }
    }

    /// Spreads what the guest sends over all channels.
    fn send_indirection_table(&mut self) {
        let channels = u32::from(self.session.subchannels) + 1;
        let mut message = Reply::IndirectionTable.encode().to_vec();
        for entry in 0..INDIRECTION_ENTRIES as u32 {
            message.extend((entry % channels).to_le_bytes());
        }
        if let Some(channel) = self.channels.get_mut(0).and_then(Option::as_mut) {
            // Only advice: a full ring does without.
            let _ = channel.push(Outgoing::InBand { transaction: 0, wants_completion: false, payload: &message });
        }
    }

    pub(crate) fn primary(&self) -> Option<&Channel> {
        self.channels.first()?.as_ref()
    }

    /// Takes a control message of the guest.
    pub(crate) fn control(&mut self, message: &[u8]) -> Result<(), &'static str> {
        if let Some(reply) = self.session.control(message, &mut self.objects)? {
            if self.replies.len() == MOST_REPLIES {
                return Err("it takes no answers to its control messages");
            }
            self.reply(reply);
            self.send_replies();
        }
        Ok(())
    }

    fn reply(&mut self, reply: Vec<u8>) {
        if self.replies.len() < MOST_REPLIES {
            self.replies.push(reply);
        }
    }

    /// Sends answers to control messages, as far as there is room.
    fn send_replies(&mut self) {
        while let Some(reply) = self.replies.first() {
            let (Some(buffer), Some(Some(channel))) = (&mut self.receive_buffer, self.channels.get_mut(0)) else {
                return;
            };
            let payload = Reply::Rndis { control: true }.encode();
            let packet =
                |transaction, ranges| Outgoing::TransferPages { transaction, set: 0, ranges, payload: &payload };
            if buffer.free() == 0 || !channel.reserve(packet(0, &[(0, 0)]).ring_len()) {
                return;
            }
            let mut chain = Chain::default();
            let filled = buffer.fill(&[reply], &mut chain);
            let sent = match (filled, chain.transaction()) {
                (Some(Ok(range)), Some(transaction)) => {
                    let ranges = [range];
                    let packet =
                        Outgoing::TransferPages { transaction, set: buffer.id, ranges: &ranges, payload: &payload };
                    channel.send(packet).is_ok()
                }
                _ => false,
            };
            if !sent {
                self.fail(0, "its receive buffer cannot be written");
                return;
            }
            self.replies.remove(0);
        }
    }

    /// Makes what was written to the port visible.
    fn publish_port(&mut self) {
        if let Some(port) = &mut self.port
            && port.ring.tx.publish().is_err()
        {
            self.port_failed();
        }
    }

    /// Ends the session: the primary channel is closed, or the VM was reset.
    fn end_session(&mut self) {
        let link_up = self.objects.link_up;
        self.objects = Objects { link_up, ..self.config.objects() };
        self.session = Session::default();
        self.receive_buffer = None;
        self.send_buffer = None;
        self.replies.clear();
    }

    /// Puts the saved session to use, now that there is a channel with its GPADLs.
    fn resume_session(&mut self, saved: &SavedNetworkAdapter) -> Result<(), &'static str> {
        let channel = self.primary().ok_or("no channel")?;
        let gpadl = |handle| channel.gpadl(handle).ok_or("the guest's buffers are not those that were saved");
        let send_buffer = match saved.send_buffer {
            Some(handle) => Some(SendBuffer { gpadl: gpadl(handle)?, handle }),
            None => None,
        };
        let receive_buffer = match &saved.receive_buffer {
            Some(buffer) => {
                let gpadl = gpadl(buffer.handle)?;
                let restored = ReceiveBuffer::new(gpadl, buffer.handle, buffer.id, buffer.max_frame);
                let mut restored = restored.ok_or("the receive buffer is too small")?;
                restored.lend(&buffer.lent).ok_or("sections of the receive buffer are lent twice")?;
                Some(restored)
            }
            None => None,
        };
        self.session = saved.session();
        let link_up = self.objects.link_up;
        self.objects = saved.objects(&self.objects);
        self.replies = saved.replies();
        (self.send_buffer, self.receive_buffer) = (send_buffer, receive_buffer);
        // A cable that was plugged in or pulled out meanwhile is news.
        self.set_link(link_up);
        Ok(())
    }
}

impl Nic for NetworkAdapter {
    fn connect(&mut self, ring: PortRing) -> std::io::Result<()> {
        self.port = None;
        let me = self.me.clone();
        let watch = self.reactor.watch(&ring.wake, Interest::READ, move |_| {
            if let Some(adapter) = me.upgrade() {
                adapter.lock().port_woken();
            }
        })?;
        self.port = Some(Connection { ring, _watch: watch });
        self.set_link(true);
        self.run();
        Ok(())
    }

    fn disconnect(&mut self) {
        self.port = None;
        self.set_link(false);
    }
}

impl ChannelDevice for NetworkAdapter {
    fn open(&mut self, channel: Channel) -> Result<(), OpenRefused> {
        let index = usize::from(channel.index());
        let restored = channel.is_restored();
        if self.channels.len() <= index {
            self.channels.resize_with(index + 1, || None);
        }
        self.channels[index] = Some(channel);
        if index > 0 {
            return Ok(());
        }
        match self.restored.take() {
            Some(saved) if restored => self.resume_session(&saved).map_err(|reason| {
                self.channels[0] = None;
                OpenRefused { reason: reason.into() }
            }),
            _ => {
                self.end_session();
                Ok(())
            }
        }
    }

    fn close(&mut self, index: u16, quiet: QuiesceToken) {
        if let Some(channel) = self.channels.get_mut(usize::from(index)) {
            *channel = None;
        }
        if index == 0 {
            self.end_session();
        }
        // Frames are copied: nothing is in flight.
        drop(quiet);
    }

    fn signalled(&mut self, index: u16) {
        if self.paused {
            return;
        }
        if index == 0 {
            self.send_replies();
        }
        self.read_channel(index.into());
        // Sections may have come back.
        self.receive_frames(TURN);
        self.publish_port();
    }
}

impl Device for NetworkAdapter {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let saved = match &self.restored {
            // Saved again before the guest ran.
            Some(saved) => saved.clone(),
            None => SavedNetworkAdapter::of(
                &self.session,
                &self.objects,
                self.receive_buffer.as_ref(),
                self.send_buffer.as_ref(),
                &self.replies,
            ),
        };
        SavedState::encode(saved_state::KIND, saved_state::VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        let Counters { sent, sent_bytes, send_dropped, received, received_bytes, filtered, too_long } = self.counters;
        json!({
            "address": self.objects.current.to_string(),
            "nvsp_version": format!("{:#x}", self.session.version),
            "mtu": self.objects.mtu,
            "channels": self.channels.iter().flatten().count(),
            "link_up": self.objects.link_up,
            "connected": self.is_connected(),
            "packet_filter": self.objects.filter,
            "receive_sections_free": self.receive_buffer.as_ref().map(ReceiveBuffer::free),
            "frames": {
                "sent": sent, "sent_bytes": sent_bytes, "send_dropped": send_dropped,
                "received": received, "received_bytes": received_bytes, "filtered": filtered, "too_long": too_long,
            },
        })
    }

    fn reset(&mut self) {
        // The bus closes the channels.
        self.restored = None;
    }

    fn start(&mut self) {
        self.paused = false;
        let me = self.me.clone();
        self.reactor.post(move || {
            if let Some(adapter) = me.upgrade() {
                adapter.lock().run();
            }
        });
    }

    fn pause(&mut self, quiet: QuiesceToken) {
        self.paused = true;
        drop(quiet);
    }
}
