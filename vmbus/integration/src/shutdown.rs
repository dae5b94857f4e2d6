//! Orderly shutdown, restart and hibernation at the host's wish, without logging in.

use crate::ServiceError;
use crate::conversation::{Identity, Later, Outcome, Request, Service};
use crate::error::STATUS_OK;
use crate::message::Version;
use crate::saved_state::SavedService;
use crate::text::utf16_field;
use bulkhead_reactor::Time;
use bulkhead_vmbus_channel::class;
use std::time::Duration;

/// How long the guest may take to accept.
const PATIENCE: Duration = Duration::from_secs(15);
/// Reason code: planned, without a category.
const REASON: u32 = 0x8000_0000;
/// UTF-16 units of the message, with the zero at its end.
const MESSAGE_UNITS: usize = 1024;

/// What the guest is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownKind {
    /// Power off.
    PowerOff,
    /// Start again.
    Restart,
    /// Write its memory to its disk and power off.
    Hibernate,
}

/// Hears whether the guest has accepted; that it is off shows when the VM ends.
pub type Accepted = Box<dyn FnOnce(Result<(), ServiceError>) + Send>;

struct Wish {
    data: Vec<u8>,
    answer: Accepted,
}

/// The service.
#[derive(Default)]
pub struct Shutdown {
    version: Option<Version>,
    waiting: Option<Wish>,
    sent: Option<Accepted>,
}

impl Shutdown {
    /// Asks the guest to shut down. `message` is for its users, `force` does not let programs object, and `within` is the
    /// time that they get.
    pub fn request(
        &mut self,
        kind: ShutdownKind,
        force: bool,
        within: Duration,
        message: &str,
        answer: Accepted,
        later: &mut Later,
    ) {
        let refusal = match self.version {
            None => Some(ServiceError::NotReady { service: Self::IDENTITY.name }),
            Some(version) if kind == ShutdownKind::Hibernate && version < Version::new(3, 2) => {
                Some(ServiceError::NotReady { service: "hibernation" })
            }
            Some(_) if self.waiting.is_some() || self.sent.is_some() => {
                Some(ServiceError::Busy { service: Self::IDENTITY.name, what: "an earlier shutdown" })
            }
            Some(_) => None,
        };
        if let Some(error) = refusal {
            later.push(Box::new(move || answer(Err(error))));
            return;
        }
        let flags = u32::from(force)
            | match kind {
                ShutdownKind::PowerOff => 0,
                ShutdownKind::Restart => 2,
                ShutdownKind::Hibernate => 4,
            };
        let mut data = Vec::new();
        data.extend(REASON.to_le_bytes());
        data.extend(u32::try_from(within.as_secs()).unwrap_or(u32::MAX).to_le_bytes());
        data.extend(flags.to_le_bytes());
        // A message that is too long loses its end: it is for people.
        let cut: String = message.chars().take(MESSAGE_UNITS / 2 - 1).collect();
        data.extend(utf16_field("the message", &cut, MESSAGE_UNITS).unwrap_or_else(|_| vec![0; 2 * MESSAGE_UNITS]));
        self.waiting = Some(Wish { data, answer });
    }

    fn end(&mut self, result: Result<(), ServiceError>, later: &mut Later) {
        let waiting = self.waiting.take().map(|wish| wish.answer);
        if let Some(answer) = self.sent.take().or(waiting) {
            later.push(Box::new(move || answer(result)));
        }
    }
}

impl Service for Shutdown {
    const IDENTITY: Identity = Identity {
        name: "shutdown",
        class: class::SHUTDOWN,
        instance: class::SHUTDOWN_INSTANCE,
        message_type: 3,
        frameworks: &[Version::new(3, 0), Version::new(1, 0)],
        messages: &[Version::new(3, 2), Version::new(3, 1), Version::new(3, 0), Version::new(1, 0)],
    };

    type Config = ();

    fn new(_: ()) -> Shutdown {
        Shutdown::default()
    }

    fn restore(_: (), _saved: &SavedService, version: Option<Version>, _now: Time) -> Shutdown {
        Shutdown { version, ..Shutdown::default() }
    }

    fn ready(&mut self, _now: Time, version: Version, _later: &mut Later) {
        self.version = Some(version);
    }

    fn closed(&mut self, _now: Time, later: &mut Later) {
        self.version = None;
        self.end(Err(ServiceError::Closed { service: Self::IDENTITY.name, what: "a shutdown" }), later);
    }

    fn next_request(&mut self, _now: Time, _later: &mut Later) -> Option<Request> {
        let Wish { data, answer } = self.waiting.take()?;
        self.sent = Some(answer);
        Some(Request { data, patience: Some(PATIENCE) })
    }

    fn outcome(&mut self, _now: Time, outcome: Outcome<'_>, later: &mut Later) {
        let result = match outcome {
            Outcome::Reply { status: STATUS_OK, .. } => Ok(()),
            Outcome::Reply { status, .. } => Err(ServiceError::Refused { what: "to shut down", status }),
            Outcome::TimedOut => Err(ServiceError::TimedOut { service: Self::IDENTITY.name, within: PATIENCE }),
        };
        self.end(result, later);
    }
}

impl std::fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shutdown").field("version", &self.version).finish()
    }
}
