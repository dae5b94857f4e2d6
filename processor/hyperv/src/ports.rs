//! The two seams to VMBus: what guests send by hypercall, and what is sent to guests through the SynIC.

use crate::HypercallStatus;

/// Takes what guests send by hypercall. Called on the calling VP's thread, between two of its instructions; it must not wait.
pub trait HypercallPorts: Send + Sync {
    /// HvPostMessage (TLFS 11.10.2): `payload` has at most [`SynicMessage::MAX_PAYLOAD`] bytes.
    ///
    /// Usual answers: `Success`; `InvalidConnectionId` for a connection that nobody listens to; `InsufficientBuffers` or
    /// `InsufficientMemory`, after which Linux tries again with growing delays, up to 100 times.
    fn post_message(&self, connection_id: u32, message_type: u32, payload: &[u8]) -> HypercallStatus;

    /// HvSignalEvent (TLFS 11.10.3): sets a flag of the connection's port.
    fn signal_event(&self, connection_id: u32, flag: u16) -> HypercallStatus;
}

/// Sends messages and events to guests. Usable from every thread; never waits.
pub trait SynicPort: Send + Sync {
    /// Puts a message into slot `sint` of `vp`'s message page and raises the SINT's vector, at once or as soon as the guest
    /// has freed the slot and enabled its SynIC.
    ///
    /// # Errors
    /// There is no such VP or SINT; too many messages wait because the guest takes none.
    fn post_message(&self, vp: u32, sint: u8, message: &SynicMessage) -> Result<(), SynicError>;

    /// Sets event flag `flag` (0–2047) of `sint` in `vp`'s event page; if it was clear, raises the SINT's vector.
    ///
    /// # Errors
    /// There is no such VP, SINT or flag; the VP's SynIC or event page is off, so that the event is lost.
    fn signal_event(&self, vp: u32, sint: u8, flag: u16) -> Result<(), SynicError>;

    /// Drops all messages that wait for `sint`, on all VPs: a new kernel must not get those of the one before.
    fn discard_messages(&self, sint: u8);
}

/// One message to a guest (TLFS 11.9): type, sender, payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynicMessage {
    message_type: u32,
    sender: u64,
    payload: Vec<u8>,
}

impl SynicMessage {
    /// Most bytes of payload.
    pub const MAX_PAYLOAD: usize = 240;
    /// The message type of VMBus.
    pub const VMBUS: u32 = 1;

    /// A message. `sender` is the port id that the guest sees; 0 is fine for VMBus.
    ///
    /// # Errors
    /// `BadMessage` for type 0, which means "empty", or too long a payload.
    pub fn new(message_type: u32, sender: u64, payload: &[u8]) -> Result<Self, SynicError> {
        if message_type == 0 || payload.len() > Self::MAX_PAYLOAD {
            return Err(SynicError::BadMessage { message_type, len: payload.len() });
        }
        Ok(Self { message_type, sender, payload: payload.to_vec() })
    }

    /// Type; never 0.
    pub fn message_type(&self) -> u32 {
        self.message_type
    }

    /// Port id of the sender.
    pub fn sender(&self) -> u64 {
        self.sender
    }

    /// Payload, at most [`Self::MAX_PAYLOAD`] bytes.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// Why something could not be sent to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SynicError {
    /// No such VP.
    #[error("virtual processor {vp} of the SynIC: this VM has {vps}; use an index below that")]
    NoVp {
        /// The index asked for.
        vp: u32,
        /// How many there are.
        vps: u32,
    },
    /// No such interrupt source or flag.
    #[error("SINT {sint}, flag {flag} of the SynIC: there are 16 SINTs with 2048 flags each")]
    NoFlag {
        /// The source asked for.
        sint: u8,
        /// The flag asked for; 0 with a message.
        flag: u16,
    },
    /// The guest has not switched on what is needed, or its page is no RAM any more.
    #[error(
        "event to virtual processor {vp}, SINT {sint}: the guest has not enabled its event page; the event is lost"
    )]
    Disabled {
        /// The VP.
        vp: u32,
        /// The source.
        sint: u8,
    },
    /// The guest takes no messages.
    #[error("message to virtual processor {vp}, SINT {sint}: {waiting} wait already, because the guest takes none")]
    QueueFull {
        /// The VP.
        vp: u32,
        /// The source.
        sint: u8,
        /// Messages that wait.
        waiting: usize,
    },
    /// Not a message.
    #[error("message of type {message_type} with {len} bytes: the type must not be 0, and at most 240 bytes fit")]
    BadMessage {
        /// The type.
        message_type: u32,
        /// Bytes of payload.
        len: usize,
    },
}
