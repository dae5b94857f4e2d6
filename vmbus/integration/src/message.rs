//! Packets of integration services: pipe header, ICMSG header, data; and the version negotiation that opens a conversation.
//!
//! ```text
//! 0  u32 pipe message type (1), u32 size of the rest
//! 8  u16 framework major, minor; u16 message type; u16 message major, minor; u16 size of data; u32 status;
//!    u8 transaction, u8 flags, u16 reserved
//! 28 data
//! ```

/// Bytes in front of the data.
pub const HEADER: usize = 28;
/// Most data that a packet may have: the size field is a `u16`.
pub const MAX_DATA: usize = u16::MAX as usize;

/// Message type of the negotiation.
const NEGOTIATE: u16 = 0;
const PIPE_DATA: u32 = 1;
const FLAG_TRANSACTION: u8 = 1;
const FLAG_REQUEST: u8 = 2;
const FLAG_RESPONSE: u8 = 4;

/// A version of the framework or of a service's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Counts incompatible changes.
    pub major: u16,
    /// Counts additions.
    pub minor: u16,
}

impl Version {
    /// `major.minor`.
    pub const fn new(major: u16, minor: u16) -> Version {
        Version { major, minor }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What both sides agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// Of the ICMSG header.
    pub framework: Version,
    /// Of the service's own messages.
    pub message: Version,
}

/// A packet that is no integration message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Shorter than its headers.
    #[error("a packet of {len} bytes is too short for an integration message of at least {HEADER}")]
    Short {
        /// Its length.
        len: usize,
    },
    /// The size field is larger than the packet.
    #[error("a packet of {len} bytes claims {claimed} bytes of data")]
    Size {
        /// Its length.
        len: usize,
        /// What it claims.
        claimed: usize,
    },
    /// Requests come from the host only.
    #[error("a message with flags {flags:#x} is no response")]
    NoResponse {
        /// Its flags.
        flags: u8,
    },
    /// A negotiation that names more than one version of each kind, or only one kind.
    #[error("the negotiation chooses {frameworks} frameworks and {messages} message versions in place of one of each")]
    Negotiation {
        /// Frameworks chosen.
        frameworks: u16,
        /// Message versions chosen.
        messages: u16,
    },
}

/// A response of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response<'a> {
    /// To the negotiation; `None` when no version fits.
    Negotiated(Option<Agreed>),
    /// To a request.
    Reply {
        /// Message type of the service.
        message_type: u16,
        /// That of the request.
        transaction: u8,
        /// An HRESULT, 0 for success.
        status: u32,
        /// The request's data, as the guest changed it.
        data: &'a [u8],
    },
}

struct Head {
    agreed: Agreed,
    message_type: u16,
    transaction: u8,
}

fn packet(head: &Head, data: &[u8]) -> Vec<u8> {
    debug_assert!(data.len() <= MAX_DATA);
    let mut bytes = Vec::with_capacity(HEADER + data.len());
    bytes.extend(PIPE_DATA.to_le_bytes());
    bytes.extend(((HEADER - 8 + data.len()) as u32).to_le_bytes());
    let Agreed { framework, message } = head.agreed;
    let size = data.len() as u16;
    for field in [framework.major, framework.minor, head.message_type, message.major, message.minor, size] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(0u32.to_le_bytes());
    bytes.extend([head.transaction, FLAG_TRANSACTION | FLAG_REQUEST, 0, 0]);
    bytes.extend(data);
    bytes
}

/// The first packet: the versions that the host speaks.
pub fn negotiation(frameworks: &[Version], messages: &[Version]) -> Vec<u8> {
    let mut data = Vec::new();
    data.extend((frameworks.len() as u16).to_le_bytes());
    data.extend((messages.len() as u16).to_le_bytes());
    data.extend(0u32.to_le_bytes());
    for version in frameworks.iter().chain(messages) {
        data.extend(version.major.to_le_bytes());
        data.extend(version.minor.to_le_bytes());
    }
    let none = Version::new(0, 0);
    let agreed = Agreed { framework: none, message: none };
    packet(&Head { agreed, message_type: NEGOTIATE, transaction: 0 }, &data)
}

/// A request of a service.
pub fn request(agreed: Agreed, message_type: u16, transaction: u8, data: &[u8]) -> Vec<u8> {
    packet(&Head { agreed, message_type, transaction }, data)
}

/// Reads what the guest sends.
///
/// # Errors
/// [`MessageError`].
pub fn response(packet: &[u8]) -> Result<Response<'_>, MessageError> {
    let len = packet.len();
    let Some((head, rest)) = packet.split_first_chunk::<HEADER>() else { return Err(MessageError::Short { len }) };
    let claimed = usize::from(u16_at(head, 18));
    let Some(data) = rest.get(..claimed) else { return Err(MessageError::Size { len, claimed }) };
    let flags = head[25];
    if flags & FLAG_RESPONSE == 0 {
        return Err(MessageError::NoResponse { flags });
    }
    let message_type = u16_at(head, 12);
    if message_type == NEGOTIATE {
        return negotiated(data).map(Response::Negotiated);
    }
    let status = u32::from_le_bytes([head[20], head[21], head[22], head[23]]);
    Ok(Response::Reply { message_type, transaction: head[24], status, data })
}

fn negotiated(data: &[u8]) -> Result<Option<Agreed>, MessageError> {
    let Some(counts) = data.first_chunk::<8>() else { return Err(MessageError::Short { len: HEADER + data.len() }) };
    let (frameworks, messages) = (u16_at(counts, 0), u16_at(counts, 2));
    match (frameworks, messages) {
        (0, _) | (_, 0) => Ok(None),
        (1, 1) => {
            let Some(chosen) = data[8..].first_chunk::<8>() else {
                return Err(MessageError::Short { len: HEADER + data.len() });
            };
            let version = |at| Version::new(u16_at(chosen, at), u16_at(chosen, at + 2));
            Ok(Some(Agreed { framework: version(0), message: version(4) }))
        }
        _ => Err(MessageError::Negotiation { frameworks, messages }),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}
