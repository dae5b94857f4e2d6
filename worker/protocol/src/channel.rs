//! Typed messages over a SEQPACKET socket.

use bulkhead_linux::{MessageError, SeqPacket};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Why a message did not get through.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The socket.
    #[error("the connection between a worker and its starter failed")]
    Socket(#[from] MessageError),
    /// The bytes are no message of this protocol.
    #[error("a message of {len} bytes is not one of this protocol")]
    Malformed {
        /// Length of the packet.
        len: usize,
        /// The id that it carries, if that much could be read.
        id: Option<u64>,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Not expressible as JSON.
    #[error("a message cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
}

/// A received message.
#[derive(Debug)]
pub struct Incoming<T> {
    /// What it says.
    pub message: T,
    /// What came along.
    pub descriptors: Vec<OwnedFd>,
}

/// One end of a connection that sends `S` and receives `R`.
#[derive(Debug)]
pub struct Channel<S, R> {
    socket: SeqPacket,
    _types: PhantomData<fn(S) -> R>,
}

impl<S: Serialize, R: DeserializeOwned> Channel<S, R> {
    /// Speaks over `socket`.
    pub fn new(socket: SeqPacket) -> Channel<S, R> {
        Channel { socket, _types: PhantomData }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The other end is gone; the message is too long.
    pub fn send(&self, message: &S, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let bytes = serde_json::to_vec(message).map_err(ChannelError::Encode)?;
        Ok(self.socket.send(&bytes, descriptors)?)
    }

    /// Waits for the next message; `None` when the other end is closed.
    ///
    /// # Errors
    /// After `Malformed` the connection still works.
    pub fn receive(&self) -> Result<Option<Incoming<R>>, ChannelError> {
        let Some(packet) = self.socket.receive()? else { return Ok(None) };
        let message = decode(&packet.bytes)?;
        Ok(Some(Incoming { message, descriptors: packet.descriptors }))
    }
}

/// Reads one packet.
pub(crate) fn decode<R: DeserializeOwned>(bytes: &[u8]) -> Result<R, ChannelError> {
    serde_json::from_slice(bytes).map_err(|source| {
        #[derive(serde::Deserialize)]
        struct OnlyId {
            id: u64,
        }
        let id = serde_json::from_slice::<OnlyId>(bytes).ok().map(|only| only.id);
        ChannelError::Malformed { len: bytes.len(), id, source }
    })
}

impl<S, R> AsFd for Channel<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
