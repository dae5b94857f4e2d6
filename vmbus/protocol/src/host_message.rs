//! Messages to guests (delivered through the SynIC's message page).

use crate::OfferMessage;
use uuid::Uuid;

/// A message to a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostMessage {
    /// Type 1.
    Offer(Box<OfferMessage>),
    /// Type 2: the channel is gone.
    Rescind {
        /// The channel.
        relid: u32,
    },
    /// Type 4: the answer to RequestOffers ends here.
    AllOffersDelivered,
    /// Type 6.
    OpenResult {
        /// The channel.
        relid: u32,
        /// As in the request.
        open_id: u32,
        /// 0 or an NTSTATUS.
        status: u32,
    },
    /// Type 10.
    GpadlCreated {
        /// The channel.
        relid: u32,
        /// Handle.
        gpadl: u32,
        /// 0 or an NTSTATUS.
        status: u32,
    },
    /// Type 12: no host thread touches the pages any more.
    GpadlTorndown {
        /// Handle.
        gpadl: u32,
    },
    /// Type 15.
    VersionResponse {
        /// Whether the version is spoken.
        supported: bool,
        /// From 5.0 on the connection for messages, before the version.
        connection: u32,
    },
    /// Type 17.
    UnloadResponse,
    /// Type 23: nobody listens (guests of version 5 and newer only; older ones warn about it).
    SocketResult {
        /// As in the request.
        endpoint: Uuid,
        /// As in the request.
        service: Uuid,
        /// NTSTATUS.
        status: u32,
    },
    /// Type 24, from 5.3 on.
    ModifyChannelResponse {
        /// The channel.
        relid: u32,
        /// 0 or an NTSTATUS.
        status: u32,
    },
}

impl HostMessage {
    /// The bytes, at most [`crate::MAX_MESSAGE`].
    pub fn encode(&self) -> Vec<u8> {
        let words = |kind: u32, body: &[u32]| {
            let mut out = Vec::with_capacity(8 + 4 * body.len());
            out.extend(kind.to_le_bytes());
            out.extend([0; 4]);
            body.iter().for_each(|word| out.extend(word.to_le_bytes()));
            out
        };
        match self {
            Self::Offer(offer) => {
                let mut out = words(1, &[]);
                offer.encode(&mut out);
                out
            }
            Self::Rescind { relid } => words(2, &[*relid]),
            Self::AllOffersDelivered => words(4, &[]),
            Self::OpenResult { relid, open_id, status } => words(6, &[*relid, *open_id, *status]),
            Self::GpadlCreated { relid, gpadl, status } => words(10, &[*relid, *gpadl, *status]),
            Self::GpadlTorndown { gpadl } => words(12, &[*gpadl]),
            // Byte 9, the connection state, is 0: success.
            Self::VersionResponse { supported, connection } => words(15, &[u32::from(*supported), *connection]),
            Self::UnloadResponse => words(17, &[]),
            Self::SocketResult { endpoint, service, status } => {
                let mut out = words(23, &[]);
                out.extend(endpoint.to_bytes_le());
                out.extend(service.to_bytes_le());
                out.extend(status.to_le_bytes());
                out
            }
            Self::ModifyChannelResponse { relid, status } => words(24, &[*relid, *status]),
        }
    }
}
