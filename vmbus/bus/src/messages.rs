//! Messages from the guest, and what they change.

use crate::VmBus;
use crate::calls::{Call, Garbage, OpenCall, UNSUCCESSFUL};
use crate::gpadl_assembly::Assembled;
use crate::state::{Connection, Stage, State};
use bulkhead_guest_log::{guest_info, guest_warn};
use bulkhead_guest_memory::PAGE_SIZE;
use bulkhead_hyperv::SynicMessage;
use bulkhead_vmbus_channel::{ChannelParts, Gpadl, OfferId};
use bulkhead_vmbus_protocol::{
    ConnectionId, GpadlHeader, GuestMessage, HostMessage, InitiateContact, MESSAGE_TYPE, NO_VP, OpenRequest, SINT,
    Version,
};
use std::sync::Arc;
use uuid::Uuid;

/// Whether there may be more to do.
pub(crate) enum Progress {
    Handled,
    /// The inbox is empty, or its first message waits for channels to be closed.
    Waits,
}

/// Pages that all GPADLs may have, however small the VM is.
const MIN_GPADL_PAGES: usize = 1 << 16;

impl VmBus {
    /// Handles the first message of the inbox.
    pub(crate) fn handle_next(self: &Arc<Self>, state: &mut State) -> Progress {
        let Some(bytes) = state.inbox.pop_front() else { return Progress::Waits };
        let message = match GuestMessage::parse(&bytes) {
            Ok(message) => message,
            Err(error) => {
                guest_warn!(self.log, "a channel message is dropped: {error}");
                return Progress::Handled;
            }
        };
        let connected = state.connection.is_some();
        let done = match message {
            GuestMessage::InitiateContact(contact) => self.contact(state, contact),
            GuestMessage::Unload => self.unload(state),
            _ if !connected => {
                guest_warn!(self.log, "a channel message came before first contact and is dropped");
                true
            }
            GuestMessage::Open(request) => self.open(state, request),
            other => {
                self.change(state, other);
                true
            }
        };
        if done {
            return Progress::Handled;
        }
        state.inbox.push_front(bytes);
        Progress::Waits
    }

    /// Messages that never wait.
    fn change(self: &Arc<Self>, state: &mut State, message: GuestMessage<'_>) {
        match message {
            GuestMessage::RequestOffers => self.request_offers(state),
            GuestMessage::Close { relid } => match state.find(relid) {
                Some((id, 0)) => self.close_offer(state, id),
                Some((id, position)) => self.close_channel(state, id, position),
                None => guest_warn!(self.log, "close of channel {relid}, which is not offered"),
            },
            GuestMessage::GpadlHeader(header) => self.gpadl_header(state, &header),
            GuestMessage::GpadlBody { gpadl, ranges } => {
                let assembled = state.assemblies.add(gpadl, ranges, &self.wiring.memory);
                self.gpadl_assembled(state, gpadl, assembled);
            }
            GuestMessage::GpadlTeardown { relid, gpadl } => self.gpadl_teardown(state, relid, gpadl),
            GuestMessage::RelIdReleased { relid } => {
                // Also of channels that were never rescinded: those the guest only forgets.
                if let Some(instance) = state.rescinded.remove(&relid) {
                    state.relids.free(relid);
                    self.offer_again(state, instance);
                }
            }
            GuestMessage::SocketConnect { endpoint, service } => {
                state.calls.push_back(Call::Connect { endpoint, service });
            }
            GuestMessage::ModifyChannel { relid, target_vp } => self.modify_channel(state, relid, target_vp),
            GuestMessage::InitiateContact(_) | GuestMessage::Unload | GuestMessage::Open(_) => {}
        }
    }

    pub(crate) fn send_to(&self, vp: u32, message: &HostMessage) {
        let posted = SynicMessage::new(MESSAGE_TYPE, 0, &message.encode())
            .and_then(|message| self.wiring.synic.post_message(vp, SINT, &message));
        if let Err(error) = posted {
            guest_warn!(self.log, "a channel message to the guest is lost: {error}");
        }
    }

    /// A kernel comes (or the firmware, or the next kernel). False: not all channels of the one before are closed yet.
    fn contact(self: &Arc<Self>, state: &mut State, contact: InitiateContact) -> bool {
        self.close_all(state);
        if !state.all_closed() {
            return false;
        }
        self.disconnect(state);
        self.wiring.synic.discard_messages(SINT);
        let InitiateContact { version, target_vp, .. } = contact;
        let supported = version.is_supported() && target_vp < self.wiring.vps;
        let connection = if version >= Version::V5_0 { ConnectionId::MESSAGES_V5.0 } else { version.0 };
        // A VP that does not exist cannot be told so; the first one is as good as any.
        let answer_to = if target_vp < self.wiring.vps { target_vp } else { 0 };
        self.send_to(answer_to, &HostMessage::VersionResponse { supported, connection });
        if supported {
            guest_info!(self.log, %version, "a guest is on VMBus");
            state.connection = Some(Connection { version, target_vp, offers_requested: false });
        }
        true
    }

    /// The guest leaves. False: not all channels are closed yet.
    fn unload(self: &Arc<Self>, state: &mut State) -> bool {
        self.close_all(state);
        if !state.all_closed() {
            return false;
        }
        let target_vp = state.connection.map(|connection| connection.target_vp);
        self.disconnect(state);
        self.wiring.synic.discard_messages(SINT);
        if let Some(vp) = target_vp {
            self.send_to(vp, &HostMessage::UnloadResponse);
        }
        true
    }

    /// Forgets everything that the guest knew. Channels may still be closing.
    pub(crate) fn disconnect(self: &Arc<Self>, state: &mut State) {
        state.connection = None;
        state.generation += 1;
        state.assemblies.by_handle.clear();
        state.tearing.clear();
        state.torn_down.clear();
        for relid in std::mem::take(&mut state.rescinded).into_keys() {
            state.relids.free(relid);
        }
        let mut tables = Vec::new();
        for entry in state.offers.values_mut() {
            tables.push(entry.gpadls.take_all());
            entry.channels.iter_mut().for_each(|channel| channel.offered = false);
        }
        let gpadls = tables.into_iter().flatten();
        state.calls.extend(gpadls.map(|gpadl| Call::Drop(Garbage::Gpadl(gpadl))));
        let ids: Vec<OfferId> = state.offers.keys().copied().collect();
        ids.into_iter().for_each(|id| self.settle(state, id));
    }

    fn request_offers(&self, state: &mut State) {
        let Some(connection) = &mut state.connection else { return };
        if std::mem::replace(&mut connection.offers_requested, true) {
            guest_warn!(self.log, "a second request for offers is ignored");
            return;
        }
        let ids: Vec<OfferId> = state.offers.keys().copied().collect();
        ids.into_iter().for_each(|id| self.send_offers(state, id));
        self.send(state, &HostMessage::AllOffersDelivered);
    }

    /// Offers the channels of an offer that the guest does not know.
    pub(crate) fn send_offers(&self, state: &mut State, id: OfferId) {
        let Some(Connection { offers_requested: true, target_vp, .. }) = state.connection else { return };
        let instance = state.offers.get(&id).filter(|entry| !entry.removed).map(|entry| entry.offer.instance);
        if instance.is_none_or(|instance| state.is_known(instance)) {
            return;
        }
        let Some(entry) = state.offers.get_mut(&id) else { return };
        for position in 0..entry.channels.len() {
            if !std::mem::replace(&mut entry.channels[position].offered, true) {
                self.send_to(target_vp, &HostMessage::Offer(Box::new(entry.message(position))));
            }
        }
    }

    /// The guest has forgotten a device: another one of the same instance may have waited for that.
    fn offer_again(&self, state: &mut State, instance: Option<Uuid>) {
        let waiting = state.offers.iter().find(|(_, entry)| Some(entry.offer.instance) == instance && !entry.removed);
        if let Some(id) = waiting.map(|(id, _)| *id) {
            self.send_offers(state, id);
        }
    }

    /// False: the channel is still being closed.
    fn open(self: &Arc<Self>, state: &mut State, request: Box<OpenRequest>) -> bool {
        let OpenRequest { relid, open_id, .. } = *request;
        let refuse = |reason: &str| {
            guest_warn!(self.log, "open of channel {relid} is refused: {reason}");
            self.send(state, &HostMessage::OpenResult { relid, open_id, status: UNSUCCESSFUL });
            true
        };
        let target = request.target_vp;
        if target >= self.wiring.vps && target != NO_VP {
            return refuse("it names a processor that does not exist");
        }
        let found = state.offers.iter().find_map(|(id, entry)| {
            let position = entry.channels.iter().position(|channel| channel.relid == relid && channel.offered)?;
            (!entry.removed).then_some((*id, position, entry))
        });
        let Some((id, position, entry)) = found else { return refuse("it is not offered") };
        let Some(rings) = entry.gpadls.get(request.gpadl) else {
            return refuse("its rings are in a GPADL that does not exist");
        };
        if position > 0 && !matches!(entry.channels[0].stage, Stage::Open(_)) {
            return refuse("its primary channel is not open");
        }
        match entry.channels[position].stage {
            Stage::Closing | Stage::Opening => return false,
            Stage::Open(_) => return refuse("it is open"),
            Stage::Closed => {}
        }
        let version = state.connection.map_or(Version::V2_4, |connection| connection.version);
        let generation = state.generation;
        let Some(entry) = state.offers.get_mut(&id) else { return true };
        let call = open_call(entry, position, version, rings, (request, generation, false));
        state.calls.push_back(Call::Open(Box::new(call)));
        true
    }

    fn gpadl_header(self: &Arc<Self>, state: &mut State, header: &GpadlHeader<'_>) {
        let (relid, gpadl) = (header.relid, header.gpadl);
        let ram = (self.wiring.memory.total_len() / PAGE_SIZE) as usize;
        let limit = ram.max(MIN_GPADL_PAGES);
        let taken = state.tearing.contains(&gpadl) || state.offers.values().any(|entry| entry.gpadls.contains(gpadl));
        let refused = |reason: &str| Assembled::Refused { relid, reason: reason.into() };
        let assembled = if state.channel(relid).is_none() {
            refused("its channel is not offered")
        } else if taken {
            refused("its handle is in use")
        } else if state.gpadl_pages() + usize::from(header.total_len) / 8 > limit {
            refused("all GPADLs together would have more pages than the VM")
        } else {
            state.assemblies.begin(header, &self.wiring.memory)
        };
        self.gpadl_assembled(state, gpadl, assembled);
    }

    fn gpadl_assembled(self: &Arc<Self>, state: &mut State, handle: u32, assembled: Assembled) {
        let (relid, result) = match assembled {
            Assembled::Partial => return,
            Assembled::Unknown => {
                return guest_warn!(self.log, "more of GPADL {handle:#x}, which was not begun, is dropped");
            }
            Assembled::Complete { relid, gpadl } => {
                let entry = state.find(relid).and_then(|(id, _)| state.entry(id));
                let stored = entry.is_some_and(|entry| entry.gpadls.insert(handle, gpadl));
                (relid, if stored { Ok(()) } else { Err("its channel is gone".into()) })
            }
            Assembled::Refused { relid, reason } => (relid, Err(reason)),
        };
        if let Err(reason) = &result {
            guest_warn!(self.log, "GPADL {handle:#x} of channel {relid} is refused: {reason}");
        }
        let status = if result.is_ok() { 0 } else { UNSUCCESSFUL };
        self.send(state, &HostMessage::GpadlCreated { relid, gpadl: handle, status });
    }

    /// Answered when the last holder lets the pages go.
    fn gpadl_teardown(self: &Arc<Self>, state: &mut State, relid: u32, handle: u32) {
        let Some(gpadl) = state.offers.values_mut().find_map(|entry| entry.gpadls.remove(handle)) else {
            // The guest waits without limit, and what does not exist is torn down already.
            guest_warn!(self.log, "teardown of GPADL {handle:#x} of channel {relid}, which does not exist");
            if !state.tearing.contains(&handle) {
                self.send(state, &HostMessage::GpadlTorndown { gpadl: handle });
            }
            return;
        };
        state.tearing.insert(handle);
        let (bus, generation) = (Arc::downgrade(self), state.generation);
        gpadl.on_release(move || {
            let Some(bus) = bus.upgrade() else { return };
            let mut state = bus.state.lock();
            if state.generation == generation && state.tearing.remove(&handle) {
                bus.send(&state, &HostMessage::GpadlTorndown { gpadl: handle });
            }
        });
        state.calls.push_back(Call::Drop(Garbage::Gpadl(gpadl)));
    }

    fn modify_channel(&self, state: &mut State, relid: u32, target_vp: u32) {
        let exists = target_vp < self.wiring.vps || target_vp == NO_VP;
        let channel = state.channel(relid).filter(|channel| exists && matches!(channel.stage, Stage::Open(_)));
        let changed = channel.is_some();
        if let Some(channel) = channel {
            channel.doorbell.set_target(target_vp);
        } else {
            guest_warn!(self.log, "cannot move channel {relid} to processor {target_vp}: one of them does not exist");
        }
        if state.connection.is_some_and(|connection| connection.version >= Version::V5_3) {
            let status = if changed { 0 } else { UNSUCCESSFUL };
            self.send(state, &HostMessage::ModifyChannelResponse { relid, status });
        }
    }
}

/// Marks a channel as opening.
pub(crate) fn open_call(
    entry: &mut crate::state::OfferEntry,
    position: usize,
    version: Version,
    rings: Gpadl,
    (request, generation, restored): (Box<OpenRequest>, u64, bool),
) -> OpenCall {
    let channel = &mut entry.channels[position];
    channel.stage = Stage::Opening;
    channel.doorbell.set_target(request.target_vp);
    let parts = ChannelParts {
        index: position as u16,
        version,
        user_data: request.user_data,
        restored,
        rings,
        downstream_page: request.downstream_page,
        gpadls: entry.gpadls.clone(),
        host: channel.doorbell.clone(),
        log: entry.log.clone(),
    };
    OpenCall { device: entry.device.clone(), parts, doorbell: channel.doorbell.clone(), request, generation }
}
