//! NVSP, the network VSP's own messages: 40 bytes each, a type and a body. Numbers as in Linux' `hyperv_net.h`.

/// Bytes of every message.
pub const LEN: usize = 40;

/// Status of NVSP completions. Success is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// Done.
    Success = 1,
    /// Not done.
    Failure = 2,
    /// The guest's version is newer than ours.
    TooNew = 3,
}

/// A message of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// 1: the range of versions the guest can speak.
    Init {
        /// Lowest.
        min: u32,
        /// Highest.
        max: u32,
    },
    /// 100: the NDIS version; nothing to answer.
    NdisVersion {
        /// Major.
        major: u32,
        /// Minor.
        minor: u32,
    },
    /// 101: the buffer into which we put what the guest receives.
    ReceiveBuffer {
        /// Its GPADL.
        gpadl: u32,
        /// What it is called in transfer-page packets.
        id: u16,
    },
    /// 103: takes it away; nothing to answer.
    RevokeReceiveBuffer,
    /// 104: the buffer of sections in which the guest puts small frames.
    SendBuffer {
        /// Its GPADL.
        gpadl: u32,
    },
    /// 106: takes it away; nothing to answer.
    RevokeSendBuffer,
    /// 107: RNDIS messages.
    Rndis {
        /// Control messages, not frames.
        control: bool,
        /// The section of the send buffer that holds the first part, if any does.
        section: Option<u32>,
        /// Bytes used in it.
        len: u32,
    },
    /// 108: the guest has read what we sent.
    RndisComplete,
    /// 125: the largest frame and what the guest can do; nothing to answer.
    NdisConfig {
        /// Bytes of the largest frame, Ethernet header included.
        max_frame: u32,
        /// Capability bits.
        capabilities: u64,
    },
    /// 129: which data path is used; we have one only.
    SwitchDataPath,
    /// 133: wants more channels.
    Subchannels {
        /// How many.
        count: u32,
    },
}

/// Where the guest says that it used no section.
const NO_SECTION: u32 = u32::MAX;

impl Request {
    /// Reads a message. Linux sends 40 bytes; shorter ones are read as if zeros followed. `None`: an unknown type.
    pub fn decode(bytes: &[u8]) -> Option<Request> {
        let mut message = [0; LEN];
        let len = bytes.len().min(LEN);
        message[..len].copy_from_slice(&bytes[..len]);
        let u32_at = |at: usize| u32::from_le_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
        if len < 4 {
            return None;
        }
        Some(match u32_at(0) {
            1 => Request::Init { min: u32_at(4), max: u32_at(8) },
            100 => Request::NdisVersion { major: u32_at(4), minor: u32_at(8) },
            101 => Request::ReceiveBuffer { gpadl: u32_at(4), id: u16::from_le_bytes([message[8], message[9]]) },
            103 => Request::RevokeReceiveBuffer,
            104 => Request::SendBuffer { gpadl: u32_at(4) },
            106 => Request::RevokeSendBuffer,
            107 => Request::Rndis {
                control: u32_at(4) == 1,
                section: Some(u32_at(8)).filter(|section| *section != NO_SECTION),
                len: u32_at(12),
            },
            108 => Request::RndisComplete,
            125 => Request::NdisConfig {
                max_frame: u32_at(4),
                capabilities: u64::from(u32_at(12)) | u64::from(u32_at(16)) << 32,
            },
            129 => Request::SwitchDataPath,
            133 => Request::Subchannels { count: u32_at(8) },
            _ => return None,
        })
    }
}

/// A message to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// 2.
    InitComplete {
        /// The version; 0 with a refusal.
        version: u32,
        /// Whether it is accepted.
        status: Status,
    },
    /// 102: how we divide the receive buffer.
    ReceiveBufferComplete {
        /// Whether it is accepted.
        status: Status,
        /// Bytes of a section.
        section: u32,
        /// Number of sections.
        count: u32,
    },
    /// 105: how the guest divides the send buffer.
    SendBufferComplete {
        /// Whether it is accepted.
        status: Status,
        /// Bytes of a section.
        section: u32,
    },
    /// 107: RNDIS messages lie in the receive buffer.
    Rndis {
        /// Control messages, not frames.
        control: bool,
    },
    /// 108: what the guest sent is done with.
    RndisComplete {
        /// How it went.
        status: Status,
    },
    /// 133: so many channels will be offered.
    SubchannelsComplete {
        /// Whether any are.
        status: Status,
        /// How many.
        count: u32,
    },
    /// 134 without its table, which follows: 16 numbers.
    IndirectionTable,
}

impl Reply {
    /// The bytes on the ring.
    pub fn encode(&self) -> [u8; LEN] {
        let words: &[u32] = match *self {
            Reply::InitComplete { version, status } => &[2, version, MAX_MDL_CHAIN, status as u32],
            Reply::ReceiveBufferComplete { status, section, count } => {
                &[102, status as u32, 1, 0, section, count, section.saturating_mul(count)]
            }
            Reply::SendBufferComplete { status, section } => &[105, status as u32, section],
            Reply::Rndis { control } => &[107, u32::from(control), NO_SECTION, 0],
            Reply::RndisComplete { status } => &[108, status as u32],
            Reply::SubchannelsComplete { status, count } => &[133, status as u32, count],
            Reply::IndirectionTable => &[134, INDIRECTION_ENTRIES as u32, LEN as u32],
        };
        let mut message = [0; LEN];
        for (word, bytes) in words.iter().zip(message.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        message
    }
}

/// The longest chain of page lists that Hyper-V says it takes.
const MAX_MDL_CHAIN: u32 = 34;

/// Entries of the table that spreads the guest's transmissions over its channels.
pub const INDIRECTION_ENTRIES: usize = 16;
