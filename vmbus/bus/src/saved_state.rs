//! The saved form: the guest's connection, messages that wait, channels and GPADLs. Ring positions are in guest memory;
//! messages to the guest are part of the SynIC.

use crate::gpadl_assembly::Assembly;
use crate::state::{ChannelEntry, Connection, OfferEntry, Stage, State};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_vmbus_channel::{Gpadl, GpadlError, Offer};
use bulkhead_vmbus_protocol::{OpenRequest, USER_BYTES, Version};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use uuid::Uuid;

pub(crate) const KIND: &str = "vmbus";
pub(crate) const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedBus {
    #[n(0)]
    connection: Option<SavedConnection>,
    #[n(1)]
    inbox: Vec<ByteVec>,
    #[n(2)]
    offers: Vec<SavedOffer>,
    #[n(3)]
    assemblies: Vec<SavedAssembly>,
    /// GPADLs torn down, which the guest has not been told.
    #[n(4)]
    torn_down: Vec<u32>,
    /// Rescinded channels that the guest has not released, with the instance if it was a primary one.
    #[n(5)]
    rescinded: Vec<(u32, Option<[u8; 16]>)>,
    #[n(6)]
    last_relid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct SavedConnection {
    #[n(0)]
    version: u32,
    #[n(1)]
    target_vp: u32,
    #[n(2)]
    offers_requested: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedOffer {
    #[n(0)]
    class: [u8; 16],
    #[n(1)]
    instance: [u8; 16],
    #[n(2)]
    pub channels: Vec<SavedChannel>,
    #[n(3)]
    pub gpadls: Vec<SavedGpadl>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedChannel {
    #[n(0)]
    pub relid: u32,
    #[n(1)]
    pub offered: bool,
    #[n(2)]
    pub open: Option<SavedOpen>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedOpen {
    #[n(0)]
    open_id: u32,
    #[n(1)]
    pub gpadl: u32,
    #[n(2)]
    target_vp: u32,
    #[n(3)]
    downstream_page: u32,
    #[n(4)]
    user_data: ByteVec,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedGpadl {
    #[n(0)]
    pub handle: u32,
    #[n(1)]
    len: u32,
    #[n(2)]
    offset: u32,
    #[n(3)]
    pages: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct SavedAssembly {
    #[n(0)]
    handle: u32,
    #[n(1)]
    relid: u32,
    #[n(2)]
    total_len: u16,
    #[n(3)]
    bytes: ByteVec,
}

impl SavedBus {
    pub fn of(state: &State) -> SavedBus {
        let connection = state.connection.map(|connection| SavedConnection {
            version: connection.version.0,
            target_vp: connection.target_vp,
            offers_requested: connection.offers_requested,
        });
        let assemblies = state.assemblies.by_handle.iter().map(|(handle, assembly)| SavedAssembly {
            handle: *handle,
            relid: assembly.relid,
            total_len: assembly.total_len,
            bytes: assembly.bytes.clone().into(),
        });
        let mut offers: Vec<SavedOffer> = state.offers.values().map(SavedOffer::of).collect();
        // Saved again before the devices were offered.
        offers.extend(state.unclaimed.iter().cloned());
        let rescinded = state.rescinded.iter();
        SavedBus {
            connection,
            inbox: state.inbox.iter().map(|message| message.clone().into()).collect(),
            offers,
            assemblies: assemblies.collect(),
            torn_down: state.tearing.iter().chain(&state.torn_down).copied().collect(),
            rescinded: rescinded.map(|(relid, instance)| (*relid, instance.map(|id| id.to_bytes_le()))).collect(),
            last_relid: state.relids.last(),
        }
    }
}

impl SavedOffer {
    fn of(entry: &OfferEntry) -> SavedOffer {
        let gpadls = entry.gpadls.all().into_iter().map(|(handle, gpadl)| SavedGpadl {
            handle,
            len: gpadl.len() as u32,
            offset: gpadl.offset(),
            pages: gpadl.pages().to_vec(),
        });
        SavedOffer {
            class: entry.offer.class.to_bytes_le(),
            instance: entry.offer.instance.to_bytes_le(),
            channels: entry.channels.iter().map(SavedChannel::of).collect(),
            gpadls: gpadls.collect(),
        }
    }

    pub fn instance(&self) -> Uuid {
        Uuid::from_bytes_le(self.instance)
    }

    pub fn is(&self, offer: &Offer) -> bool {
        self.class == offer.class.to_bytes_le() && self.instance == offer.instance.to_bytes_le()
    }
}

impl SavedChannel {
    fn of(channel: &ChannelEntry) -> SavedChannel {
        let open = match &channel.stage {
            Stage::Open(request) => Some(SavedOpen {
                open_id: request.open_id,
                gpadl: request.gpadl,
                target_vp: channel.doorbell.target(),
                downstream_page: request.downstream_page,
                user_data: request.user_data.to_vec().into(),
            }),
            // Nobody is opening while the VM is paused, and what is closing is closed then.
            _ => None,
        };
        SavedChannel { relid: channel.relid, offered: channel.offered, open }
    }
}

impl SavedOpen {
    pub fn request(&self, relid: u32) -> OpenRequest {
        let mut user_data = [0; USER_BYTES];
        let len = self.user_data.len().min(USER_BYTES);
        user_data[..len].copy_from_slice(&self.user_data[..len]);
        OpenRequest {
            relid,
            open_id: self.open_id,
            gpadl: self.gpadl,
            target_vp: self.target_vp,
            downstream_page: self.downstream_page,
            user_data,
        }
    }
}

impl SavedGpadl {
    pub fn restored(self, memory: &GuestMemory) -> Result<Gpadl, GpadlError> {
        Gpadl::new(memory.clone(), self.len, self.offset, self.pages)
    }
}

impl State {
    /// The state that was saved, its offers still without devices. What contradicts itself is left out.
    pub fn restored(saved: SavedBus) -> State {
        let mut state = State {
            inbox: saved.inbox.into_iter().map(Vec::from).collect(),
            torn_down: saved.torn_down,
            connection: saved.connection.map(|connection| Connection {
                version: Version(connection.version),
                target_vp: connection.target_vp,
                offers_requested: connection.offers_requested,
            }),
            ..State::default()
        };
        for (relid, instance) in saved.rescinded {
            if state.relids.claim(relid) {
                state.rescinded.insert(relid, instance.map(Uuid::from_bytes_le));
            }
        }
        for mut offer in saved.offers {
            offer.channels.retain(|channel| state.relids.claim(channel.relid));
            if !offer.channels.is_empty() {
                state.unclaimed.push(offer);
            }
        }
        for SavedAssembly { handle, relid, total_len, bytes } in saved.assemblies {
            if bytes.len() < usize::from(total_len) {
                let assembly = Assembly { relid, total_len, bytes: bytes.into() };
                state.assemblies.by_handle.insert(handle, assembly);
            }
        }
        state.relids.set_last(saved.last_relid);
        state
    }
}
