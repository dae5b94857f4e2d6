//! Offering devices, removing them, and sub-channels.

use crate::VmBus;
use crate::doorbell::Doorbell;
use crate::messages::open_call;
use crate::saved_state::SavedOffer;
use crate::state::{ChannelEntry, OfferEntry, Stage, State};
use bulkhead_guest_log::GuestLog;
use bulkhead_vmbus_channel::{BusError, ChannelBus, ChannelDevice, GpadlTable, Offer, OfferId};
use bulkhead_vmbus_protocol::{HostMessage, MAX_RELID, Version};
use parking_lot::Mutex;
use std::sync::Arc;
use uuid::Uuid;

/// The bus as devices and the machine hold it.
struct Bus(Arc<VmBus>);

impl VmBus {
    /// What devices are offered on.
    pub fn channels(self: &Arc<Self>) -> Arc<dyn ChannelBus> {
        Arc::new(Bus(self.clone()))
    }

    fn new_channel(self: &Arc<Self>, entry: &OfferEntry, relid: u32) -> ChannelEntry {
        let index = entry.channels.len() as u16;
        let doorbell = Doorbell::new(relid, index, entry.offer.wake, &entry.device, self);
        self.doorbells.write()[relid as usize] = Some(doorbell.clone());
        ChannelEntry { relid, offered: false, stage: Stage::Closed, doorbell }
    }

    /// See [`ChannelBus::offer`].
    ///
    /// # Errors
    /// As there.
    pub fn offer(self: &Arc<Self>, offer: Offer, device: Arc<Mutex<dyn ChannelDevice>>) -> Result<OfferId, BusError> {
        let mut state = self.state.lock();
        if state.offers.values().any(|entry| !entry.removed && entry.offer.instance == offer.instance) {
            return Err(BusError::Duplicate { name: offer.name, instance: offer.instance });
        }
        let saved = state.unclaimed.iter().position(|saved| saved.is(&offer));
        let saved = saved.map(|position| state.unclaimed.remove(position));
        let name = offer.name.clone();
        let log = Arc::new(GuestLog::new(&self.wiring.reactor, name.clone()));
        let gpadls = GpadlTable::default();
        let mut entry = OfferEntry { offer, device, channels: Vec::new(), gpadls, log, removed: false };
        let id = state.next_offer_id();
        let calls = match saved {
            Some(saved) => self.claim(&mut state, &mut entry, saved),
            None => {
                let relid = state.relids.take().ok_or(BusError::Full { name, max: MAX_RELID })?;
                entry.channels.push(self.new_channel(&entry, relid));
                Vec::new()
            }
        };
        state.offers.insert(id, entry);
        self.send_offers(&mut state, id);
        drop(state);
        // Restored channels, at once: the machine is not running yet.
        calls.into_iter().for_each(|call| self.open_device(call));
        Ok(id)
    }

    /// Gives a device the channels that it had when the VM was saved.
    fn claim(
        self: &Arc<Self>,
        state: &mut State,
        entry: &mut OfferEntry,
        saved: SavedOffer,
    ) -> Vec<crate::calls::OpenCall> {
        let version = state.connection.map_or(Version::V2_4, |connection| connection.version);
        let generation = state.generation;
        for gpadl in saved.gpadls {
            let handle = gpadl.handle;
            if let Ok(gpadl) = gpadl.restored(&self.wiring.memory) {
                entry.gpadls.insert(handle, gpadl);
            }
        }
        let mut calls = Vec::new();
        for channel in saved.channels {
            // Its number was claimed when the state was read.
            let mut restored = self.new_channel(entry, channel.relid);
            restored.offered = channel.offered;
            entry.channels.push(restored);
            let Some(open) = channel.open else { continue };
            if let Some(rings) = entry.gpadls.get(open.gpadl) {
                let position = entry.channels.len() - 1;
                let request = Box::new(open.request(channel.relid));
                calls.push(open_call(entry, position, version, rings, (request, generation, true)));
            }
        }
        calls
    }

    /// See [`ChannelBus::remove`].
    ///
    /// # Errors
    /// As there.
    pub fn remove(self: &Arc<Self>, id: OfferId) -> Result<(), BusError> {
        let mut state = self.state.lock();
        let entry = state.entry(id).filter(|entry| !entry.removed).ok_or(BusError::NoOffer(id))?;
        entry.removed = true;
        self.close_offer(&mut state, id);
        self.settle(&mut state, id);
        Ok(())
    }

    /// See [`bulkhead_vmbus_channel::Channel::grant_sub_channels`].
    pub(crate) fn grant_sub_channels(self: &Arc<Self>, primary: u32, count: u16) -> u16 {
        let mut state = self.state.lock();
        let Some((id, 0)) = state.find(primary) else { return 0 };
        let open = state.offers.get(&id).is_some_and(|entry| matches!(entry.channels[0].stage, Stage::Open(_)));
        if !open {
            return 0;
        }
        let mut have = 0;
        while let Some(entry) = state.offers.get(&id).filter(|entry| !entry.removed) {
            have = entry.channels.len() as u16 - 1;
            if have >= count {
                break;
            }
            let Some(relid) = state.relids.take() else { break };
            let Some(entry) = state.offers.get_mut(&id) else { break };
            let channel = self.new_channel(entry, relid);
            entry.channels.push(channel);
        }
        self.send_offers(&mut state, id);
        have
    }

    /// After all devices of a restored machine were offered: those that are missing are gone for the guest.
    pub(crate) fn finish_restore(&self, state: &mut State) {
        for saved in std::mem::take(&mut state.unclaimed) {
            let instance = saved.instance();
            for (index, channel) in saved.channels.into_iter().enumerate() {
                if channel.offered {
                    self.send(state, &HostMessage::Rescind { relid: channel.relid });
                    state.rescinded.insert(channel.relid, (index == 0).then_some(instance));
                } else {
                    state.relids.free(channel.relid);
                }
            }
        }
        for gpadl in std::mem::take(&mut state.torn_down) {
            self.send(state, &HostMessage::GpadlTorndown { gpadl });
        }
    }
}

impl ChannelBus for Bus {
    fn offer(&self, offer: Offer, device: Arc<Mutex<dyn ChannelDevice>>) -> Result<OfferId, BusError> {
        self.0.offer(offer, device)
    }

    fn remove(&self, id: OfferId) -> Result<(), BusError> {
        self.0.remove(id)
    }

    fn refuse_socket(&self, endpoint: Uuid, service: Uuid) {
        self.0.refuse(endpoint, service);
    }
}
