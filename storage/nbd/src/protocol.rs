//! Numbers and layouts of the protocol. All integers on the wire are big-endian.

/// First 8 bytes of a server: "NBDMAGIC".
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT", before each option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Before each option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Before each request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Before a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Before a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags of the server: fixed newstyle, no zeroes after EXPORT_NAME.
pub const HANDSHAKE_FLAGS: u16 = 3;
/// Client flag: no zeroes.
pub const CLIENT_NO_ZEROES: u32 = 2;

/// The longest data of one option; names are at most 4096 bytes.
pub const MAX_OPTION: u32 = 64 << 10;
/// The longest name of an export or context.
pub const MAX_NAME: usize = 4096;
/// The longest payload of one request.
pub const MAX_PAYLOAD: u32 = 32 << 20;
/// Length of a request without payload.
pub const REQUEST_LEN: usize = 28;

/// Option numbers.
pub mod option {
    /// Old way in: name, then straight into transmission.
    pub const EXPORT_NAME: u32 = 1;
    /// Ends the session.
    pub const ABORT: u32 = 2;
    /// Lists exports.
    pub const LIST: u32 = 3;
    /// Asks about an export.
    pub const INFO: u32 = 6;
    /// Asks, and enters transmission.
    pub const GO: u32 = 7;
    /// Structured replies from now on.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Lists metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Selects metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Option reply types.
pub mod reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export.
    pub const SERVER: u32 = 2;
    /// One information.
    pub const INFO: u32 = 3;
    /// One context.
    pub const META_CONTEXT: u32 = 4;
    /// Set in all errors.
    pub const ERROR: u32 = 1 << 31;
    /// The option is unknown.
    pub const UNSUPPORTED: u32 = ERROR | 1;
    /// The option's data are wrong.
    pub const INVALID: u32 = ERROR | 3;
    /// There is no such export.
    pub const UNKNOWN: u32 = ERROR | 6;
}

/// Information types.
pub mod info {
    /// Size and flags.
    pub const EXPORT: u16 = 0;
    /// Name.
    pub const NAME: u16 = 1;
    /// Description.
    pub const DESCRIPTION: u16 = 2;
    /// Minimum, preferred and maximum block size.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags.
pub mod flag {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1;
    /// No writes.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH works.
    pub const FLUSH: u16 = 1 << 2;
    /// FUA works.
    pub const FUA: u16 = 1 << 3;
    /// TRIM works.
    pub const TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES works.
    pub const WRITE_ZEROES: u16 = 1 << 6;
    /// The client may forbid fragmented reads.
    pub const DONT_FRAGMENT: u16 = 1 << 7;
    /// A flush covers all connections.
    pub const MULTI_CONNECTION: u16 = 1 << 8;
}

/// Commands.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// Goodbye.
    pub const DISCONNECT: u16 = 2;
    /// Flush.
    pub const FLUSH: u16 = 3;
    /// Discard.
    pub const TRIM: u16 = 4;
    /// Write zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// Block status.
    pub const BLOCK_STATUS: u16 = 7;
    /// Flag: durable before the reply.
    pub const FLAG_FUA: u16 = 1;
    /// Flag: do not punch holes.
    pub const FLAG_NO_HOLE: u16 = 1 << 1;
    /// Flag: one extent per context is enough.
    pub const FLAG_ONE: u16 = 1 << 3;
}

/// Chunk types of structured replies.
pub mod chunk {
    /// Flag: the last chunk.
    pub const DONE: u16 = 1;
    /// Nothing.
    pub const NONE: u16 = 0;
    /// Data at an offset.
    pub const DATA: u16 = 1;
    /// Zeros at an offset.
    pub const HOLE: u16 = 2;
    /// Extents of one context.
    pub const BLOCK_STATUS: u16 = 5;
    /// An error and its text.
    pub const ERROR: u16 = (1 << 15) + 1;
}

/// Error numbers of the protocol (Linux values).
pub mod error {
    /// Not permitted: read-only.
    pub const PERMISSION: u32 = 1;
    /// Input/output error.
    pub const IO: u32 = 5;
    /// Out of memory.
    pub const MEMORY: u32 = 12;
    /// Invalid request.
    pub const INVALID: u32 = 22;
    /// No space.
    pub const NO_SPACE: u32 = 28;
    /// Cannot be done.
    pub const UNSUPPORTED: u32 = 95;
    /// The server is shutting down.
    pub const SHUTDOWN: u32 = 108;
}

/// Flag of `base:allocation`: no storage is used.
pub const STATE_HOLE: u32 = 1;
/// Flag of `base:allocation`: reads as zeros.
pub const STATE_ZERO: u32 = 2;

/// One request, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Command flags.
    pub flags: u16,
    /// One of [`command`].
    pub command: u16,
    /// The client's name for it.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

impl Request {
    /// Parses the fixed part; `None` if the magic is wrong.
    pub fn parse(bytes: &[u8; REQUEST_LEN]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        (reader.u32()? == REQUEST_MAGIC).then_some(())?;
        Some(Self {
            flags: reader.u16()?,
            command: reader.u16()?,
            cookie: reader.u64()?,
            offset: reader.u64()?,
            len: reader.u32()?,
        })
    }

    /// The bytes on the wire.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(REQUEST_MAGIC.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        out.extend(self.command.to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        out.extend(self.offset.to_be_bytes());
        out.extend(self.len.to_be_bytes());
    }

    /// The first byte behind it, or `None` if that does not exist.
    pub fn end(&self) -> Option<u64> {
        self.offset.checked_add(u64::from(self.len))
    }
}

/// Writes an option reply.
pub fn put_option_reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend(OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend(option.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
}

/// Writes a simple reply's head.
pub fn put_simple_reply(out: &mut Vec<u8>, cookie: u64, error: u32) {
    out.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend(error.to_be_bytes());
    out.extend(cookie.to_be_bytes());
}

/// Writes the head of a chunk whose payload has `len` bytes.
pub fn put_chunk(out: &mut Vec<u8>, cookie: u64, flags: u16, kind: u16, len: usize) {
    out.extend(STRUCTURED_REPLY_MAGIC.to_be_bytes());
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend((len as u32).to_be_bytes());
}

/// Reads integers and byte strings from the front of a slice.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// From the beginning.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A name: its length as 32 bits, then UTF-8 of at most [`MAX_NAME`] bytes.
    pub fn name(&mut self) -> Option<&'a str> {
        let len = self.u32()? as usize;
        let bytes = self.bytes(len).filter(|bytes| bytes.len() <= MAX_NAME)?;
        std::str::from_utf8(bytes).ok()
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
