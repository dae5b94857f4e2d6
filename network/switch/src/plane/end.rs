//! [`End`]: what is attached to a port, and what is under way there.

use super::capture::Captured;
use bulkhead_packets::FrameMeta;
use bulkhead_port::{AttachOptions, PortRing};
use bulkhead_switch_core::{Egress, TokenBucket, Verdict};
use bulkhead_uplinks::Uplink;
use crossbeam_channel::Sender;

/// How long senders wait at once for a receiver whose ring is full.
pub const PATIENCE: u64 = 20_000_000;
/// How much of all time they do: half.
const PATIENCE_PER_SECOND: u64 = 500_000_000;
/// Bytes of a frame that are judged.
pub const HEADER: usize = 128;

/// What is attached to a port.
#[derive(Default)]
pub enum Link {
    /// Nothing.
    #[default]
    None,
    /// A NIC.
    Ring(Box<PortRing>),
    /// An interface of the host.
    Wire(Box<Wire>),
}

/// An interface of the host.
pub struct Wire {
    pub uplink: Box<dyn Uplink>,
    pub buffer: Box<[u8]>,
    /// The frame in the buffer.
    pub held: Option<(usize, FrameMeta)>,
    /// It did not take a frame: watch for when it does.
    pub blocked: bool,
}

/// A port's end in the data plane.
pub struct End {
    pub link: Link,
    pub options: AttachOptions,
    /// The decision about the next frame, which could not go yet.
    pub pending: Option<Box<Pending>>,
    /// It has frames that are not published.
    pub dirty: bool,
    /// Its ring is full and nobody reads it: frames for it are dropped.
    pub stalled: bool,
    /// Since when senders wait for it.
    pub waiting_since: Option<u64>,
    /// Bytes unread then.
    pub pending_then: u32,
    /// Nanoseconds for which senders may still wait.
    pub patience: TokenBucket,
    /// Until when an empty ring is watched without sleeping.
    pub linger_until: u64,
    pub capture: Option<(Sender<Captured>, u32)>,
}

impl Default for End {
    fn default() -> Self {
        End {
            link: Link::None,
            options: AttachOptions::default(),
            pending: None,
            dirty: false,
            stalled: false,
            waiting_since: None,
            pending_then: 0,
            patience: TokenBucket::new(PATIENCE_PER_SECOND, PATIENCE, 0),
            linger_until: 0,
            capture: None,
        }
    }
}

impl End {
    /// Senders wait no longer: what they waited is used up.
    pub fn end_wait(&mut self, now: u64) {
        if let Some(since) = self.waiting_since.take() {
            self.patience.take((now - since).min(PATIENCE), now);
        }
    }
}

/// The head of a frame: all that decisions are made from.
#[derive(Clone, Copy)]
pub struct Head {
    pub len: usize,
    pub meta: FrameMeta,
    pub header: [u8; HEADER],
}

impl Head {
    /// The bytes at hand.
    #[inline]
    pub fn header(&self) -> &[u8] {
        &self.header[..self.len.min(HEADER)]
    }
}

/// A decision that waits to be carried out.
pub struct Pending {
    pub head: Head,
    pub verdict: Verdict,
    pub out: Vec<Egress>,
    /// The port's own limit has let it pass.
    pub paid: bool,
}
