//! What the bus knows: the guest's connection, offers, channels and their numbers.

use crate::calls::Call;
use crate::doorbell::Doorbell;
use crate::gpadl_assembly::Assemblies;
use crate::saved_state::SavedOffer;
use bulkhead_guest_log::GuestLog;
use bulkhead_vmbus_channel::{ChannelDevice, GpadlTable, Offer, OfferId};
use bulkhead_vmbus_protocol::{MAX_RELID, OfferMessage, OpenRequest, Version};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use uuid::Uuid;

#[derive(Default)]
pub(crate) struct State {
    /// Messages from the guest, in order.
    pub inbox: VecDeque<Vec<u8>>,
    /// Devices to be called, before the next message.
    pub calls: VecDeque<Call>,
    /// The loop will look.
    pub scheduled: bool,
    pub connection: Option<Connection>,
    /// Counts disconnections, so that what was begun for one guest is not told to the next.
    pub generation: u64,
    pub offers: BTreeMap<OfferId, OfferEntry>,
    pub last_offer: u64,
    pub assemblies: Assemblies,
    /// GPADLs that the guest tore down and devices still hold.
    pub tearing: BTreeSet<u32>,
    pub relids: Relids,
    /// Rescinded channels that the guest has not forgotten yet; primary ones with the instance, which cannot be offered again
    /// until then.
    pub rescinded: BTreeMap<u32, Option<Uuid>>,
    /// Saved offers whose devices have not been offered again.
    pub unclaimed: Vec<SavedOffer>,
    /// GPADLs whose end the restored guest has not been told.
    pub torn_down: Vec<u32>,
}

/// The guest is on the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connection {
    pub version: Version,
    /// Gets the messages.
    pub target_vp: u32,
    /// It asked for offers, and gets new ones as they come.
    pub offers_requested: bool,
}

/// An offered device.
pub(crate) struct OfferEntry {
    pub offer: Offer,
    pub device: Arc<Mutex<dyn ChannelDevice>>,
    /// The primary, then sub-channels.
    pub channels: Vec<ChannelEntry>,
    pub gpadls: GpadlTable,
    pub log: Arc<GuestLog>,
    /// It goes away as soon as its channels are closed.
    pub removed: bool,
}

/// A channel of an offer.
pub(crate) struct ChannelEntry {
    pub relid: u32,
    /// The guest of now knows it.
    pub offered: bool,
    pub stage: Stage,
    pub doorbell: Arc<Doorbell>,
}

/// How far a channel is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    Closed,
    /// The device is being asked.
    Opening,
    /// As the guest asked for it.
    Open(Box<OpenRequest>),
    /// The device has not finished.
    Closing,
}

impl State {
    pub fn next_offer_id(&mut self) -> OfferId {
        self.last_offer += 1;
        OfferId(self.last_offer)
    }

    /// The offer and the position in it of a channel.
    pub fn find(&mut self, relid: u32) -> Option<(OfferId, usize)> {
        self.offers.iter().find_map(|(id, entry)| {
            let position = entry.channels.iter().position(|channel| channel.relid == relid)?;
            Some((*id, position))
        })
    }

    pub fn entry(&mut self, id: OfferId) -> Option<&mut OfferEntry> {
        self.offers.get_mut(&id)
    }

    /// The channel with this number that the guest knows.
    pub fn channel(&mut self, relid: u32) -> Option<&mut ChannelEntry> {
        let (id, position) = self.find(relid)?;
        self.offers.get_mut(&id)?.channels.get_mut(position).filter(|channel| channel.offered)
    }

    pub fn all_closed(&self) -> bool {
        self.offers.values().flat_map(|entry| &entry.channels).all(|channel| channel.stage == Stage::Closed)
    }

    /// Whether the guest still knows an earlier device of this instance: it would drop the offer of a second one.
    pub fn is_known(&self, instance: Uuid) -> bool {
        let leaving = self.offers.values().any(|entry| entry.removed && entry.offer.instance == instance);
        leaving || self.rescinded.values().any(|rescinded| *rescinded == Some(instance))
    }

    pub fn gpadl_pages(&self) -> usize {
        let tables = self.offers.values().map(|entry| entry.gpadls.pages());
        tables.sum::<usize>() + self.assemblies.pages()
    }
}

impl OfferEntry {
    pub fn message(&self, position: usize) -> OfferMessage {
        OfferMessage {
            class: self.offer.class,
            instance: self.offer.instance,
            flags: self.offer.flags,
            mmio_megabytes: self.offer.mmio_megabytes,
            user: self.offer.user,
            sub_channel: position as u16,
            relid: self.channels[position].relid,
        }
    }
}

/// The channel numbers.
#[derive(Default)]
pub(crate) struct Relids {
    used: BTreeSet<u32>,
    last: u32,
}

impl Relids {
    /// A free number: the one after the last given, so that numbers are not soon used again.
    pub fn take(&mut self) -> Option<u32> {
        let next = (self.last + 1..=MAX_RELID).chain(1..=self.last);
        let free = next.into_iter().find(|relid| !self.used.contains(relid))?;
        self.last = free;
        self.used.insert(free);
        Some(free)
    }

    /// This very number, if it is one and free.
    pub fn claim(&mut self, relid: u32) -> bool {
        (1..=MAX_RELID).contains(&relid) && self.used.insert(relid)
    }

    pub fn free(&mut self, relid: u32) {
        self.used.remove(&relid);
    }

    pub fn last(&self) -> u32 {
        self.last
    }

    pub fn set_last(&mut self, last: u32) {
        self.last = last.min(MAX_RELID);
    }
}
