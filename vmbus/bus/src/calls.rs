//! Calls of devices: opening, closing, and what follows when they are done. Never under the lock of the state.

use crate::VmBus;
use crate::doorbell::Doorbell;
use crate::state::{OfferEntry, Stage, State};
use bulkhead_device::QuiesceToken;
use bulkhead_guest_log::guest_warn;
use bulkhead_vmbus_channel::{Channel, ChannelDevice, ChannelParts, Gpadl, OfferId};
use bulkhead_vmbus_protocol::{HostMessage, OpenRequest, Version};
use parking_lot::Mutex;
use std::sync::Arc;
use uuid::Uuid;

/// NTSTATUS "unsuccessful".
pub(crate) const UNSUCCESSFUL: u32 = 0xc000_0001;
/// NTSTATUS "connection refused".
pub(crate) const CONNECTION_REFUSED: u32 = 0xc000_0236;

/// Something to be done outside the lock.
pub(crate) enum Call {
    Open(Box<OpenCall>),
    Close(CloseCall),
    Connect { endpoint: Uuid, service: Uuid },
    Drop(Garbage),
}

pub(crate) struct OpenCall {
    pub device: Arc<Mutex<dyn ChannelDevice>>,
    pub parts: ChannelParts,
    pub doorbell: Arc<Doorbell>,
    pub request: Box<OpenRequest>,
    pub generation: u64,
}

pub(crate) struct CloseCall {
    device: Arc<Mutex<dyn ChannelDevice>>,
    index: u16,
    relid: u32,
}

/// Things whose drop may call the bus.
#[allow(dead_code, reason = "they are only there to be dropped")]
pub(crate) enum Garbage {
    Offer(Box<OfferEntry>),
    Gpadl(Gpadl),
}

impl VmBus {
    /// Sends a message to the guest, if there is one.
    pub(crate) fn send(&self, state: &State, message: &HostMessage) {
        if let Some(connection) = state.connection {
            self.send_to(connection.target_vp, message);
        }
    }

    /// Begins to close everything that is open.
    pub(crate) fn close_all(self: &Arc<Self>, state: &mut State) {
        let ids: Vec<OfferId> = state.offers.keys().copied().collect();
        ids.into_iter().for_each(|id| self.close_offer(state, id));
    }

    /// Begins to close all channels of an offer, sub-channels first.
    pub(crate) fn close_offer(self: &Arc<Self>, state: &mut State, id: OfferId) {
        let count = state.offers.get(&id).map_or(0, |entry| entry.channels.len());
        (0..count).rev().for_each(|position| self.close_channel(state, id, position));
    }

    /// Begins to close a channel, if it is open.
    pub(crate) fn close_channel(self: &Arc<Self>, state: &mut State, id: OfferId, position: usize) {
        let Some(entry) = state.offers.get_mut(&id) else { return };
        let Some(channel) = entry.channels.get_mut(position) else { return };
        if !matches!(channel.stage, Stage::Open(_)) {
            return;
        }
        channel.stage = Stage::Closing;
        channel.doorbell.set_open(false);
        let call = CloseCall { device: entry.device.clone(), index: position as u16, relid: channel.relid };
        state.calls.push_back(Call::Close(call));
        self.schedule(state);
    }

    pub(crate) fn close_device(self: &Arc<Self>, call: CloseCall) {
        let (bus, relid) = (Arc::downgrade(self), call.relid);
        let quiet = QuiesceToken::new(move || {
            if let Some(bus) = bus.upgrade() {
                bus.closed(relid);
            }
        });
        call.device.lock().close(call.index, quiet);
    }

    /// A device has finished with a channel.
    fn closed(self: &Arc<Self>, relid: u32) {
        let mut state = self.state.lock();
        let Some((id, position)) = state.find(relid) else { return };
        if let Some(channel) = state.entry(id).and_then(|entry| entry.channels.get_mut(position)) {
            channel.stage = Stage::Closed;
        }
        self.settle(&mut state, id);
        // Messages may have waited for this.
        self.schedule(&mut state);
    }

    /// What follows when an offer's channels are closed: without a primary there are no sub-channels, and an offer that is
    /// to go away goes.
    pub(crate) fn settle(self: &Arc<Self>, state: &mut State, id: OfferId) {
        let Some(entry) = state.offers.get_mut(&id) else { return };
        if entry.channels.iter().any(|channel| channel.stage != Stage::Closed) {
            return;
        }
        let instance = entry.offer.instance;
        let mut gone: Vec<_> = entry.channels.drain(1..).map(|channel| (channel, None)).collect();
        if entry.removed {
            gone.extend(entry.channels.drain(..).map(|channel| (channel, Some(instance))));
            if let Some(entry) = state.offers.remove(&id) {
                state.calls.push_back(Call::Drop(Garbage::Offer(Box::new(entry))));
                self.schedule(state);
            }
        }
        let mut doorbells = self.doorbells.write();
        for (channel, instance) in gone {
            doorbells[channel.relid as usize] = None;
            if channel.offered && state.connection.is_some() {
                self.send(state, &HostMessage::Rescind { relid: channel.relid });
                state.rescinded.insert(channel.relid, instance);
            } else {
                state.relids.free(channel.relid);
            }
        }
    }

    pub(crate) fn open_device(self: &Arc<Self>, call: OpenCall) {
        let OpenCall { device, parts, doorbell, request, generation } = call;
        let (index, log, restored) = (parts.index, parts.log.clone(), parts.restored);
        let result = Channel::new(parts)
            .map_err(|error| error.to_string())
            .and_then(|channel| device.lock().open(channel).map_err(|refused| refused.to_string()));
        if let Err(reason) = &result {
            guest_warn!(log, channel = index, "cannot open the channel: {reason}");
        }
        let answer = self.opened(&doorbell, request, generation, result.is_ok());
        if let Some(answer) = answer.filter(|_| !restored) {
            self.send(&self.state.lock(), &answer);
        }
        doorbell.call_soon();
    }

    /// The device has opened the channel or not. Returns what the guest is to be told, if it is still the one that asked.
    fn opened(
        self: &Arc<Self>,
        doorbell: &Doorbell,
        request: Box<OpenRequest>,
        generation: u64,
        opened: bool,
    ) -> Option<HostMessage> {
        let mut state = self.state.lock();
        let (id, position) = state.find(doorbell.relid)?;
        let same_guest = state.generation == generation;
        let entry = state.offers.get_mut(&id)?;
        let keep = opened && same_guest && !entry.removed;
        let (relid, open_id) = (request.relid, request.open_id);
        if opened {
            entry.channels[position].stage = Stage::Open(request);
            doorbell.set_open(true);
        } else {
            entry.channels[position].stage = Stage::Closed;
            self.settle(&mut state, id);
        }
        if opened && !keep {
            self.close_offer(&mut state, id);
        }
        let status = if keep { 0 } else { UNSUCCESSFUL };
        same_guest.then_some(HostMessage::OpenResult { relid, open_id, status })
    }

    pub(crate) fn connect_socket(&self, endpoint: Uuid, service: Uuid) {
        let acceptor = self.acceptor.lock().clone();
        match acceptor {
            Some(acceptor) => acceptor.connect(endpoint, service),
            None => self.refuse(endpoint, service),
        }
    }

    /// Only guests that know the message get it; others wait for their own time-out.
    pub(crate) fn refuse(&self, endpoint: Uuid, service: Uuid) {
        let state = self.state.lock();
        if state.connection.is_some_and(|connection| connection.version >= Version::V5_0) {
            self.send(&state, &HostMessage::SocketResult { endpoint, service, status: CONNECTION_REFUSED });
        }
    }
}
