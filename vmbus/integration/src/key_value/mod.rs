//! Key/value exchange: the host reads what the guest says about itself, and reads and writes keys that its programs see.

mod record;

pub use record::{Addresses, Item, Operation, Pool, Value};

use crate::ServiceError;
use crate::conversation::{Identity, Later, Outcome, Request, Service};
use crate::error::{STATUS_NO_MORE, STATUS_OK};
use crate::message::Version;
use crate::saved_state::SavedService;
use bulkhead_reactor::Time;
use bulkhead_vmbus_channel::class;
use std::collections::VecDeque;
use std::time::Duration;

/// The guest's driver gives up on its daemon after 30 s.
const PATIENCE: Duration = Duration::from_secs(35);
/// Operations that may wait for their turn.
const QUEUE: usize = 64;
/// Keys that a pool may have: bounds what a guest can make us keep.
const MAX_ITEMS: u32 = 1024;

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Written or deleted.
    Done,
    /// Of `Get`.
    Value(Value),
    /// Of `List`: all keys, in the guest's order.
    Items(Vec<Item>),
    /// Of `Addresses`.
    Addresses(Addresses),
}

/// Hears what came of an operation.
pub type Answered = Box<dyn FnOnce(Result<Answer, ServiceError>) + Send>;

struct Job {
    operation: Operation,
    /// What a list has so far; its length is the next index.
    items: Vec<Item>,
    index: u32,
    answer: Answered,
}

/// The service.
#[derive(Default)]
pub struct KeyValue {
    version: Option<Version>,
    waiting: VecDeque<Job>,
    current: Option<Job>,
}

impl KeyValue {
    /// Starts an operation; up to 64 wait for their turn.
    pub fn start(&mut self, operation: Operation, answer: Answered, later: &mut Later) {
        let refusal = if self.version.is_none() {
            Some(ServiceError::NotReady { service: Self::IDENTITY.name })
        } else if self.waiting.len() >= QUEUE {
            Some(ServiceError::Busy { service: Self::IDENTITY.name, what: "64 earlier operations" })
        } else {
            operation.check().err()
        };
        match refusal {
            Some(error) => later.push(Box::new(move || answer(Err(error)))),
            None => self.waiting.push_back(Job { operation, items: Vec::new(), index: 0, answer }),
        }
    }

    /// What the reply means: the end of the job, or `None` when a list goes on.
    fn reply(&mut self, status: u32, data: &[u8]) -> Option<Result<Answer, ServiceError>> {
        let job = self.current.as_mut()?;
        let what = job.operation.name();
        match &job.operation {
            Operation::List { .. } if status == STATUS_NO_MORE => {
                return Some(Ok(Answer::Items(std::mem::take(&mut job.items))));
            }
            Operation::Get { key, .. } if status == STATUS_NO_MORE => {
                return Some(Err(ServiceError::NoKey { key: key.clone() }));
            }
            _ => {}
        }
        if status != STATUS_OK {
            return Some(Err(ServiceError::Refused { what, status }));
        }
        match &job.operation {
            Operation::Set { .. } | Operation::Delete { .. } => Some(Ok(Answer::Done)),
            Operation::Addresses { .. } => Some(record::addresses(what, data).map(Answer::Addresses)),
            Operation::List { .. } | Operation::Get { .. } => match record::item(what, data, 8) {
                Ok(item) if matches!(&job.operation, Operation::Get { key, .. } if *key == item.key) => {
                    Some(Ok(Answer::Value(item.value)))
                }
                Ok(item) => {
                    job.items.push(item);
                    job.index += 1;
                    let endless = || ServiceError::Malformed { what, why: "the list has no end" };
                    (job.index >= MAX_ITEMS).then(|| Err(endless()))
                }
                Err(error) => Some(Err(error)),
            },
        }
    }

    fn end(&mut self, result: Result<Answer, ServiceError>, later: &mut Later) {
        if let Some(Job { answer, .. }) = self.current.take() {
            later.push(Box::new(move || answer(result)));
        }
    }
}

impl Service for KeyValue {
    const IDENTITY: Identity = Identity {
        name: "kvp",
        class: class::KVP,
        instance: class::KVP_INSTANCE,
        message_type: 2,
        frameworks: &[Version::new(3, 0), Version::new(1, 0)],
        messages: &[Version::new(4, 0), Version::new(3, 0)],
    };

    type Config = ();

    fn new(_: ()) -> KeyValue {
        KeyValue::default()
    }

    fn restore(_: (), _saved: &SavedService, version: Option<Version>, _now: Time) -> KeyValue {
        KeyValue { version, ..KeyValue::default() }
    }

    fn ready(&mut self, _now: Time, version: Version, _later: &mut Later) {
        self.version = Some(version);
    }

    fn closed(&mut self, _now: Time, later: &mut Later) {
        self.version = None;
        let error = || ServiceError::Closed { service: Self::IDENTITY.name, what: "an exchange" };
        self.end(Err(error()), later);
        for Job { answer, .. } in self.waiting.drain(..) {
            later.push(Box::new(move || answer(Err(error()))));
        }
    }

    fn next_request(&mut self, _now: Time, _later: &mut Later) -> Option<Request> {
        if self.current.is_none() {
            self.current = self.waiting.pop_front();
        }
        let job = self.current.as_ref()?;
        Some(Request { data: job.operation.encode(job.index), patience: Some(PATIENCE) })
    }

    fn outcome(&mut self, _now: Time, outcome: Outcome<'_>, later: &mut Later) {
        let result = match outcome {
            Outcome::Reply { status, data } => self.reply(status, data),
            Outcome::TimedOut => Some(Err(ServiceError::TimedOut { service: Self::IDENTITY.name, within: PATIENCE })),
        };
        if let Some(result) = result {
            self.end(result, later);
        }
    }
}

impl std::fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyValue").field("version", &self.version).field("waiting", &self.waiting.len()).finish()
    }
}
