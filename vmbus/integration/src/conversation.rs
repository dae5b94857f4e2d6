//! What all services share: negotiate when the channel opens, then one request at a time, each with its reply.
//!
//! ```text
//! closed ──opened──► negotiating ──response──► ready (request ⇄ reply) ──closed──► closed
//!                                        └───► refused (no version fits)
//! ```
//! A guest whose daemon has not started leaves the negotiation in the ring until it does, so that phase has no time limit.

use crate::message::{self, Agreed, MessageError, Response, Version};
use crate::saved_state::SavedService;
use bulkhead_reactor::Time;
use std::time::Duration;
use uuid::Uuid;

/// Work for after the device's lock is released: answers to callers and notices to observers.
pub type Later = Vec<Box<dyn FnOnce() + Send>>;

/// What a service is called and speaks.
#[derive(Debug)]
pub struct Identity {
    /// In the machine, in descriptions and on the command line: `heartbeat`.
    pub name: &'static str,
    /// Interface type of its channel.
    pub class: Uuid,
    /// Instance of its channel.
    pub instance: Uuid,
    /// ICMSG message type.
    pub message_type: u16,
    /// Versions of the framework, newest first.
    pub frameworks: &'static [Version],
    /// Versions of its messages, newest first.
    pub messages: &'static [Version],
}

/// A request of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What follows the header.
    pub data: Vec<u8>,
    /// How long to wait for the reply; `None`: as long as the channel is open.
    pub patience: Option<Duration>,
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The guest replied.
    Reply {
        /// An HRESULT, 0 for success.
        status: u32,
        /// The request's data, as the guest changed it.
        data: &'a [u8],
    },
    /// No reply in time. One that comes later is ignored.
    TimedOut,
}

/// The part in which services differ.
pub trait Service: Send + 'static {
    /// Its name and versions.
    const IDENTITY: Identity;
    /// What it is made with.
    type Config;

    /// A service whose channel is closed.
    fn new(config: Self::Config) -> Self;

    /// The service that was saved; `version` if the guest had agreed on one.
    fn restore(config: Self::Config, saved: &SavedService, version: Option<Version>, now: Time) -> Self;

    /// What [`Service::restore`] needs.
    fn save(&self) -> SavedService {
        SavedService::default()
    }

    /// Readable state for people and tests.
    fn inspect(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// The guest agreed on a version of this service's messages.
    fn ready(&mut self, now: Time, version: Version, later: &mut Later);

    /// The channel is gone, and with it a request in flight.
    fn closed(&mut self, now: Time, later: &mut Later);

    /// What to send now. Asked when nothing is in flight and whenever something has changed.
    fn next_request(&mut self, now: Time, later: &mut Later) -> Option<Request>;

    /// What came of the last request.
    fn outcome(&mut self, now: Time, outcome: Outcome<'_>, later: &mut Later);

    /// When to ask [`Service::next_request`] or [`Service::tick`] again although nothing happens.
    fn deadline(&self) -> Option<Time> {
        None
    }

    /// Time has passed.
    fn tick(&mut self, _now: Time, _later: &mut Later) {}

    /// The VM goes on after it stood still.
    fn resumed(&mut self, _now: Time) {}
}

/// Where a conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The guest has not opened the channel.
    Closed,
    /// The guest has not answered the negotiation yet: it may lack the daemon of this service.
    Negotiating,
    /// Requests can be sent.
    Ready(Agreed),
    /// No version fits.
    Refused,
}

/// The request that was sent last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InFlight {
    pub transaction: u8,
    pub until: Option<Time>,
}

/// One service's conversation with the guest. Pure: packets and time go in, packets come out.
#[derive(Debug)]
pub struct Conversation<S> {
    /// The service itself.
    pub service: S,
    phase: Phase,
    transaction: u8,
    in_flight: Option<InFlight>,
    negotiate: bool,
}

impl<S: Service> Conversation<S> {
    /// A conversation over a closed channel.
    pub fn new(service: S) -> Conversation<S> {
        Conversation { service, phase: Phase::Closed, transaction: 0, in_flight: None, negotiate: false }
    }

    pub(crate) fn from_parts(
        service: S,
        phase: Phase,
        transaction: u8,
        in_flight: Option<InFlight>,
    ) -> Conversation<S> {
        Conversation { service, phase, transaction, in_flight, negotiate: false }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn transaction(&self) -> u8 {
        self.transaction
    }

    pub(crate) fn in_flight(&self) -> Option<InFlight> {
        self.in_flight
    }

    /// The guest opened the channel.
    pub fn opened(&mut self) {
        self.phase = Phase::Negotiating;
        self.negotiate = true;
        self.in_flight = None;
    }

    /// The channel is gone: closed by the guest, rescinded, or reset.
    pub fn closed(&mut self, now: Time, later: &mut Later) {
        let was = std::mem::replace(&mut self.phase, Phase::Closed);
        self.negotiate = false;
        self.in_flight = None;
        if was != Phase::Closed {
            self.service.closed(now, later);
        }
    }

    /// A packet of the guest.
    ///
    /// # Errors
    /// It is no integration message; nothing has changed.
    pub fn receive(&mut self, now: Time, packet: &[u8], later: &mut Later) -> Result<(), MessageError> {
        match message::response(packet)? {
            Response::Negotiated(agreed) if self.phase == Phase::Negotiating => match agreed {
                Some(agreed) if S::IDENTITY.messages.contains(&agreed.message) => {
                    self.phase = Phase::Ready(agreed);
                    self.service.ready(now, agreed.message, later);
                }
                // No version, or one that was not offered.
                _ => self.phase = Phase::Refused,
            },
            Response::Reply { message_type, transaction, status, data }
                if message_type == S::IDENTITY.message_type
                    && self.in_flight.is_some_and(|sent| sent.transaction == transaction) =>
            {
                self.in_flight = None;
                self.service.outcome(now, Outcome::Reply { status, data }, later);
            }
            // Late replies, and answers to what was not asked.
            _ => {}
        }
        Ok(())
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time, later: &mut Later) {
        if self.in_flight.and_then(|sent| sent.until).is_some_and(|until| until <= now) {
            self.in_flight = None;
            self.service.outcome(now, Outcome::TimedOut, later);
        }
        self.service.tick(now, later);
    }

    /// The next packet to send, if there is one now. Call it until it gives none, after every other call.
    pub fn poll(&mut self, now: Time, later: &mut Later) -> Option<Vec<u8>> {
        if std::mem::take(&mut self.negotiate) {
            return Some(message::negotiation(S::IDENTITY.frameworks, S::IDENTITY.messages));
        }
        let Phase::Ready(agreed) = self.phase else { return None };
        if self.in_flight.is_some() {
            return None;
        }
        let Request { data, patience } = self.service.next_request(now, later)?;
        // 0 is the negotiation's.
        self.transaction = self.transaction.checked_add(1).unwrap_or(1);
        let until = patience.map(|patience| now + patience);
        self.in_flight = Some(InFlight { transaction: self.transaction, until });
        Some(message::request(agreed, S::IDENTITY.message_type, self.transaction, &data))
    }

    /// When to call [`Conversation::tick`] at the latest.
    pub fn deadline(&self) -> Option<Time> {
        let reply = self.in_flight.and_then(|sent| sent.until);
        [reply, self.service.deadline()].into_iter().flatten().min()
    }
}
