//! Saved form of one service and its conversation.

use crate::conversation::{Conversation, InFlight, Phase, Service};
use crate::message::{Agreed, Version};
use bulkhead_reactor::Time;
use minicbor::{Decode, Encode};

/// Name of the form.
pub(crate) const KIND: &str = "integration-service";
/// Version of the form.
pub(crate) const VERSION: u32 = 1;

/// A service with its conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct SavedConversation {
    /// 0 closed, 1 negotiating, 2 ready, 3 refused.
    #[n(0)]
    pub phase: u8,
    /// Agreed versions when ready: framework major and minor, message major and minor.
    #[n(1)]
    pub agreed: [u16; 4],
    /// Number of the last request.
    #[n(2)]
    pub transaction: u8,
    /// Number and time limit (VM time in nanoseconds) of the request in flight.
    #[n(3)]
    pub in_flight: Option<(u8, Option<u64>)>,
    /// A packet that the ring had no room for.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub unsent: Option<Vec<u8>>,
    /// The service's own state.
    #[n(5)]
    pub service: SavedService,
}

/// What services keep; each uses its own fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct SavedService {
    /// Heartbeat: the next question's number.
    #[n(0)]
    pub sequence: u64,
    /// Volume snapshot: the guest has to be thawed.
    #[n(1)]
    pub owes_thaw: bool,
    /// File copy: the guest has a half-copied file.
    #[n(2)]
    pub copying: bool,
}

pub(crate) fn save<S: Service>(conversation: &Conversation<S>, unsent: Option<&Vec<u8>>) -> SavedConversation {
    let none = Version::new(0, 0);
    let (phase, agreed) = match conversation.phase() {
        Phase::Closed => (0, None),
        Phase::Negotiating => (1, None),
        Phase::Ready(agreed) => (2, Some(agreed)),
        Phase::Refused => (3, None),
    };
    let Agreed { framework, message } = agreed.unwrap_or(Agreed { framework: none, message: none });
    let in_flight = conversation.in_flight();
    SavedConversation {
        phase,
        agreed: [framework.major, framework.minor, message.major, message.minor],
        transaction: conversation.transaction(),
        in_flight: in_flight.map(|sent| (sent.transaction, sent.until.map(Time::as_nanos))),
        unsent: unsent.cloned(),
        service: conversation.service.save(),
    }
}

pub(crate) fn restore<S: Service>(config: S::Config, saved: &SavedConversation, now: Time) -> Conversation<S> {
    let [framework_major, framework_minor, major, minor] = saved.agreed;
    let message = Version::new(major, minor);
    let agreed = Agreed { framework: Version::new(framework_major, framework_minor), message };
    let phase = match saved.phase {
        1 => Phase::Negotiating,
        2 if S::IDENTITY.messages.contains(&message) => Phase::Ready(agreed),
        2 | 3 => Phase::Refused,
        _ => Phase::Closed,
    };
    let version = matches!(phase, Phase::Ready(_)).then_some(message);
    let service = S::restore(config, &saved.service, version, now);
    let in_flight = saved
        .in_flight
        .filter(|_| version.is_some())
        .map(|(transaction, until)| InFlight { transaction, until: until.map(Time::from_nanos) });
    Conversation::from_parts(service, phase, saved.transaction, in_flight)
}
