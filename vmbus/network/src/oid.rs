//! NDIS objects: what the guest may read of its adapter and write to it.

use bulkhead_packets::{ETHERNET_HEADER, MacAddress};

use crate::field::{u16_at, u32_at, words};
use crate::rndis::Status;
use crate::rss::{self, Rss};

/// Frames that the guest wants, as bits of the packet filter.
pub mod filter {
    /// To its own address.
    pub const DIRECTED: u32 = 1;
    /// To the multicast addresses that it lists.
    pub const MULTICAST: u32 = 2;
    /// To any multicast address.
    pub const ALL_MULTICAST: u32 = 4;
    /// Broadcasts.
    pub const BROADCAST: u32 = 8;
    /// All.
    pub const PROMISCUOUS: u32 = 0x20;
}

const SUPPORTED_LIST: u32 = 0x0001_0101;
const HARDWARE_STATUS: u32 = 0x0001_0102;
const MEDIA_SUPPORTED: u32 = 0x0001_0103;
const MEDIA_IN_USE: u32 = 0x0001_0104;
const MAXIMUM_LOOKAHEAD: u32 = 0x0001_0105;
const MAXIMUM_FRAME_SIZE: u32 = 0x0001_0106;
const LINK_SPEED: u32 = 0x0001_0107;
const VENDOR_DESCRIPTION: u32 = 0x0001_010D;
const PACKET_FILTER: u32 = 0x0001_010E;
const CURRENT_LOOKAHEAD: u32 = 0x0001_010F;
const MAXIMUM_TOTAL_SIZE: u32 = 0x0001_0111;
const MEDIA_CONNECT_STATUS: u32 = 0x0001_0114;
const MAXIMUM_SEND_PACKETS: u32 = 0x0001_0115;
const RSS_CAPABILITIES: u32 = 0x0001_0203;
const RSS_PARAMETERS: u32 = 0x0001_0204;
const FRIENDLY_NAME: u32 = 0x0002_0216;
const CONFIG_PARAMETER: u32 = 0x0001_021B;
const PERMANENT_ADDRESS: u32 = 0x0101_0101;
const CURRENT_ADDRESS: u32 = 0x0101_0102;
const MULTICAST_LIST: u32 = 0x0101_0103;
const MAXIMUM_LIST_SIZE: u32 = 0x0101_0104;
const OFFLOAD_PARAMETERS: u32 = 0xFC01_020C;
const OFFLOAD_CAPABILITIES: u32 = 0xFC01_020D;

/// The largest MTU, as in Hyper-V.
pub const MAX_MTU: u32 = 9014;
/// Longest multicast list; longer ones are refused, and the guest takes all multicast frames.
const MULTICAST_ENTRIES: usize = 256;
/// The largest frame of a large send, headers excluded.
const LARGE_SEND: u32 = 62_768;

/// What the guest reads and sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objects {
    /// The address that the VM's description gives the adapter.
    pub permanent: MacAddress,
    /// The one that the guest uses.
    pub current: MacAddress,
    /// Longest IP packet: what the guest's driver was last configured with, up to [`MAX_MTU`].
    pub mtu: u32,
    /// Speed of the link in units of 100 bit/s.
    pub link_speed: u32,
    /// Whether the cable is in.
    pub link_up: bool,
    /// Frames that the guest wants; 0 until it opens the adapter.
    pub filter: u32,
    /// Multicast addresses that it wants.
    pub multicast: Vec<MacAddress>,
    /// How what it receives is spread over channels.
    pub rss: Rss,
    /// Most channels that we give.
    pub max_channels: u32,
    /// What the adapter is called on the host.
    pub name: String,
}

impl Objects {
    /// Bytes of the longest frame, Ethernet header included.
    pub fn max_frame(&self) -> u32 {
        self.mtu + ETHERNET_HEADER as u32
    }

    /// The value of an object.
    pub fn query(&self, oid: u32) -> Result<Vec<u8>, Status> {
        let number = |value: u32| Ok(value.to_le_bytes().to_vec());
        match oid {
            SUPPORTED_LIST => Ok(words(&READABLE)),
            // Ready; 802.3, which is 0 too.
            HARDWARE_STATUS | MEDIA_SUPPORTED | MEDIA_IN_USE => number(0),
            MAXIMUM_LOOKAHEAD | CURRENT_LOOKAHEAD | MAXIMUM_FRAME_SIZE => number(self.mtu),
            MAXIMUM_TOTAL_SIZE => number(self.max_frame()),
            LINK_SPEED => number(self.link_speed),
            VENDOR_DESCRIPTION => Ok(b"Bulkhead network adapter\0".to_vec()),
            PACKET_FILTER => number(self.filter),
            MEDIA_CONNECT_STATUS => number(u32::from(!self.link_up)),
            MAXIMUM_SEND_PACKETS => number(1),
            MAXIMUM_LIST_SIZE => number(MULTICAST_ENTRIES as u32),
            PERMANENT_ADDRESS => Ok(self.permanent.0.to_vec()),
            CURRENT_ADDRESS => Ok(self.current.0.to_vec()),
            FRIENDLY_NAME => Ok(self.name.encode_utf16().flat_map(u16::to_le_bytes).collect()),
            RSS_CAPABILITIES if self.max_channels > 1 => Ok(rss::capabilities(self.max_channels)),
            OFFLOAD_CAPABILITIES => Ok(offload_capabilities()),
            _ => Err(Status::NotSupported),
        }
    }

    /// Sets an object.
    pub fn set(&mut self, oid: u32, value: &[u8]) -> Status {
        match oid {
            PACKET_FILTER => match u32_at(value, 0) {
                Some(bits) => self.filter = bits,
                None => return Status::InvalidData,
            },
            // What we offer is either used or not, packet by packet; there is nothing to remember.
            OFFLOAD_PARAMETERS | CURRENT_LOOKAHEAD => {}
            MULTICAST_LIST => {
                let (entries, rest) = value.as_chunks::<6>();
                if !rest.is_empty() || entries.len() > MULTICAST_ENTRIES {
                    return Status::InvalidData;
                }
                self.multicast = entries.iter().map(|bytes| MacAddress(*bytes)).collect();
            }
            RSS_PARAMETERS => match self.rss.set(value, self.max_channels) {
                Some(rss) => self.rss = rss,
                None => return Status::InvalidData,
            },
            CONFIG_PARAMETER => match network_address(value) {
                Some(address) => self.current = address,
                None => return Status::InvalidData,
            },
            _ => return Status::NotSupported,
        }
        Status::Success
    }

    /// Whether the guest wants a frame to `destination`.
    pub fn wants(&self, destination: MacAddress) -> bool {
        let has = |bit| self.filter & bit != 0;
        if has(filter::PROMISCUOUS) {
            return true;
        }
        if destination == MacAddress::BROADCAST {
            return has(filter::BROADCAST);
        }
        if destination.is_group() {
            return has(filter::ALL_MULTICAST) || has(filter::MULTICAST) && self.multicast.contains(&destination);
        }
        has(filter::DIRECTED) && destination == self.current
    }
}

const READABLE: [u32; 20] = [
    SUPPORTED_LIST,
    HARDWARE_STATUS,
    MEDIA_SUPPORTED,
    MEDIA_IN_USE,
    MAXIMUM_LOOKAHEAD,
    CURRENT_LOOKAHEAD,
    MAXIMUM_FRAME_SIZE,
    MAXIMUM_TOTAL_SIZE,
    LINK_SPEED,
    VENDOR_DESCRIPTION,
    PACKET_FILTER,
    MEDIA_CONNECT_STATUS,
    MAXIMUM_SEND_PACKETS,
    MAXIMUM_LIST_SIZE,
    PERMANENT_ADDRESS,
    CURRENT_ADDRESS,
    FRIENDLY_NAME,
    RSS_CAPABILITIES,
    OFFLOAD_CAPABILITIES,
    MULTICAST_LIST,
];

/// `NDIS_OFFLOAD` of revision 1: checksums of TCP and UDP both ways, large sends, over IPv4 and IPv6.
fn offload_capabilities() -> Vec<u8> {
    const ETHERNET: u32 = 2;
    const V4: u32 = 0x01 | 0x04 | 0x10 | 0x40 | 0x100;
    const V6: u32 = 0x01 | 0x04 | 0x10 | 0x40;
    const SIZE: u32 = 112;
    const OBJECT_OFFLOAD: u32 = 0xA7;
    let checksum = [ETHERNET, V4, ETHERNET, V4, ETHERNET, V6, ETHERNET, V6];
    let large_send_v1 = [0; 4];
    let ipsec = [0; 7];
    let (segments, v6_options) = (2, 0x5);
    let large_send_v2 = [ETHERNET, LARGE_SEND, segments, ETHERNET, LARGE_SEND, segments, v6_options];
    let mut value = vec![OBJECT_OFFLOAD | 1 << 8 | SIZE << 16];
    value.extend(checksum);
    value.extend(large_send_v1);
    value.extend(ipsec);
    value.extend(large_send_v2);
    value.resize(SIZE as usize / 4, 0);
    words(&value)
}

/// The one configuration parameter that a guest sets: `NetworkAddress`, twelve hexadecimal digits in UTF-16.
fn network_address(value: &[u8]) -> Option<MacAddress> {
    const STRING: u32 = 2;
    let text = |offset: usize, len: usize| {
        let bytes = value.get(offset..offset.checked_add(len)?)?;
        String::from_utf16(&bytes.chunks_exact(2).map(|pair| u16_at(pair, 0).unwrap_or(0)).collect::<Vec<_>>()).ok()
    };
    let field = |at| u32_at(value, at).map(|value| value as usize);
    let name = text(field(0)?, field(4)?)?;
    let digits = text(field(12)?, field(16)?)?;
    if u32_at(value, 8)? != STRING || name != "NetworkAddress" || digits.len() != 12 {
        return None;
    }
    let mut address = [0; 6];
    for (byte, at) in address.iter_mut().zip((0..12).step_by(2)) {
        *byte = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
    }
    let address = MacAddress(address);
    (!address.is_group()).then_some(address)
}
