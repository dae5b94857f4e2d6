//! The saved form of an adapter. Frames in the port are not part of it: they are lost, as on a wire.

use bulkhead_packets::MacAddress;
use minicbor::{Decode, Encode};

use crate::buffers::{ReceiveBuffer, SendBuffer};
use crate::oid::{MAX_MTU, Objects};
use crate::rss::Rss;
use crate::session::Session;

pub const KIND: &str = "network-adapter";
pub const VERSION: u32 = 1;

/// The protocol's state.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedNetworkAdapter {
    #[n(0)]
    version: u32,
    #[n(1)]
    mtu: u32,
    #[n(2)]
    initialized: bool,
    #[n(3)]
    subchannels: u16,
    #[n(4)]
    address: [u8; 6],
    #[n(5)]
    filter: u32,
    #[n(6)]
    multicast: Vec<[u8; 6]>,
    #[n(7)]
    hash_kinds: u32,
    #[cbor(n(8), with = "minicbor::bytes")]
    hash_table: Vec<u8>,
    #[cbor(n(9), with = "minicbor::bytes")]
    hash_key: Vec<u8>,
    #[n(10)]
    pub receive_buffer: Option<SavedReceiveBuffer>,
    /// GPADL.
    #[n(11)]
    pub send_buffer: Option<u32>,
    #[n(12)]
    replies: Vec<minicbor::bytes::ByteVec>,
    #[n(13)]
    link_up: bool,
}

/// The receive buffer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedReceiveBuffer {
    /// GPADL.
    #[n(0)]
    pub handle: u32,
    #[n(1)]
    pub id: u16,
    /// What its sections were made for.
    #[n(2)]
    pub max_frame: u32,
    /// Sections that the guest has, packet by packet.
    #[n(3)]
    pub lent: Vec<Vec<u32>>,
}

impl SavedNetworkAdapter {
    pub fn of(
        session: &Session,
        objects: &Objects,
        receive_buffer: Option<&ReceiveBuffer>,
        send_buffer: Option<&SendBuffer>,
        replies: &[Vec<u8>],
    ) -> SavedNetworkAdapter {
        SavedNetworkAdapter {
            version: session.version,
            mtu: objects.mtu,
            initialized: session.initialized,
            subchannels: session.subchannels,
            address: objects.current.0,
            filter: objects.filter,
            multicast: objects.multicast.iter().map(|address| address.0).collect(),
            hash_kinds: objects.rss.kinds,
            hash_table: objects.rss.table.clone(),
            hash_key: objects.rss.key.clone(),
            receive_buffer: receive_buffer.map(|buffer| SavedReceiveBuffer {
                handle: buffer.handle,
                id: buffer.id,
                max_frame: buffer.max_frame,
                lent: buffer.lent(),
            }),
            send_buffer: send_buffer.map(|buffer| buffer.handle),
            replies: replies.iter().map(|reply| reply.clone().into()).collect(),
            link_up: objects.link_up,
        }
    }

    pub fn session(&self) -> Session {
        let Self { version, initialized, subchannels, .. } = *self;
        Session { version, initialized, subchannels }
    }

    /// With what does not come from the guest as in `fresh`.
    pub fn objects(&self, fresh: &Objects) -> Objects {
        // A table whose length is no power of two was never set.
        let usable = self.hash_table.len().is_power_of_two();
        let rss = Rss { kinds: self.hash_kinds, table: self.hash_table.clone(), key: self.hash_key.clone() };
        Objects {
            current: MacAddress(self.address),
            mtu: self.mtu.min(MAX_MTU),
            link_up: self.link_up,
            filter: self.filter,
            multicast: self.multicast.iter().map(|address| MacAddress(*address)).collect(),
            rss: if usable { rss } else { Rss::default() },
            ..fresh.clone()
        }
    }

    pub fn replies(&self) -> Vec<Vec<u8>> {
        self.replies.iter().map(|reply| reply.to_vec()).collect()
    }
}
