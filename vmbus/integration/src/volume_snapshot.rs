//! Volume snapshots (VSS): the guest's file systems stand still while the host takes a snapshot of its disks.
//!
//! ```text
//! idle ──freeze──► asking ──► freezing ──► frozen ──thaw──► thawing ──► completing ──► idle
//! ```
//! The guest is never left frozen: a watchdog thaws when nobody does, and a freeze that fails or times out is followed by a thaw.

use crate::ServiceError;
use crate::conversation::{Identity, Later, Outcome, Request, Service};
use crate::error::STATUS_OK;
use crate::message::Version;
use crate::saved_state::SavedService;
use bulkhead_reactor::Time;
use bulkhead_vmbus_channel::class;
use std::time::Duration;
use uuid::uuid;

const HOT_BACKUP: u8 = 2;
const BACKUP_COMPLETE: u8 = 4;
const FREEZE: u8 = 5;
const THAW: u8 = 6;
/// Operation, 7 reserved bytes, flags.
const DATA: usize = 12;

/// Freezing waits for the guest's disks; its driver's own limit is 15 minutes.
const FREEZE_PATIENCE: Duration = Duration::from_secs(15 * 60);
const PATIENCE: Duration = Duration::from_secs(35);
/// A thaw without an answer is asked for again.
const THAW_ATTEMPTS: u32 = 5;

/// Hears that the file systems stand still, or go on again.
pub type Answered = Box<dyn FnOnce(Result<(), ServiceError>) + Send>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Idle,
    /// May this guest be frozen?
    Asking,
    Freezing,
    Frozen {
        until: Time,
    },
    Thawing {
        attempt: u32,
    },
    Completing,
}

/// Whether the guest's file systems stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezeState {
    /// They work.
    Running,
    /// On the way to stand still.
    Freezing,
    /// They stand still.
    Frozen,
    /// On the way back.
    Thawing,
}

/// The service.
pub struct VolumeSnapshot {
    ready: bool,
    step: Step,
    /// The step's request has not been sent yet.
    due: bool,
    hold: Duration,
    answer: Option<Answered>,
    /// Why the thaw is under way, for the caller of a freeze that failed.
    failure: Option<ServiceError>,
    /// Thaws that nobody asked for.
    watchdog_thaws: u64,
}

impl Default for VolumeSnapshot {
    fn default() -> VolumeSnapshot {
        VolumeSnapshot {
            ready: false,
            step: Step::Idle,
            due: false,
            hold: Duration::ZERO,
            answer: None,
            failure: None,
            watchdog_thaws: 0,
        }
    }
}

impl VolumeSnapshot {
    /// Freezes the guest's file systems. Without a thaw within `hold` after that, they are thawed all the same.
    pub fn freeze(&mut self, hold: Duration, answer: Answered, later: &mut Later) {
        let service = Self::IDENTITY.name;
        let refusal = match self.step {
            _ if !self.ready => ServiceError::NotReady { service },
            Step::Idle => {
                (self.hold, self.answer) = (hold, Some(answer));
                self.go(Step::Asking);
                return;
            }
            _ => ServiceError::Busy { service, what: "an earlier freeze" },
        };
        later.push(Box::new(move || answer(Err(refusal))));
    }

    /// Thaws them. Also during a freeze, which then fails.
    pub fn thaw(&mut self, answer: Answered, later: &mut Later) {
        match self.step {
            Step::Frozen { .. } => {
                self.answer = Some(answer);
                self.go(Step::Thawing { attempt: 0 });
            }
            Step::Idle | Step::Completing => later.push(Box::new(move || answer(Ok(())))),
            Step::Asking | Step::Freezing | Step::Thawing { .. } => {
                let error = ServiceError::Busy { service: Self::IDENTITY.name, what: "freezing or thawing" };
                later.push(Box::new(move || answer(Err(error))));
            }
        }
    }

    /// Whether the file systems stand still.
    pub fn state(&self) -> FreezeState {
        match self.step {
            Step::Idle | Step::Completing => FreezeState::Running,
            Step::Asking | Step::Freezing => FreezeState::Freezing,
            Step::Frozen { .. } => FreezeState::Frozen,
            Step::Thawing { .. } => FreezeState::Thawing,
        }
    }

    /// How often the watchdog thawed.
    pub fn watchdog_thaws(&self) -> u64 {
        self.watchdog_thaws
    }

    fn go(&mut self, step: Step) {
        (self.step, self.due) = (step, true);
    }

    fn answer(&mut self, result: Result<(), ServiceError>, later: &mut Later) {
        if let Some(answer) = self.answer.take() {
            later.push(Box::new(move || answer(result)));
        }
    }

    /// The freeze has failed, perhaps half way: thaw, then tell.
    fn give_up(&mut self, error: ServiceError) {
        self.failure = Some(error);
        self.go(Step::Thawing { attempt: 0 });
    }
}

fn failure(what: &'static str, outcome: Outcome<'_>, within: Duration) -> Option<ServiceError> {
    match outcome {
        Outcome::Reply { status: STATUS_OK, .. } => None,
        Outcome::Reply { status, .. } => Some(ServiceError::Refused { what, status }),
        Outcome::TimedOut => Some(ServiceError::TimedOut { service: VolumeSnapshot::IDENTITY.name, within }),
    }
}

impl Service for VolumeSnapshot {
    const IDENTITY: Identity = Identity {
        name: "vss",
        class: class::VSS,
        instance: uuid!("5ced1297-4598-4915-a5fc-ad21bb4d02a4"),
        message_type: 5,
        frameworks: &[Version::new(3, 0)],
        messages: &[Version::new(5, 0)],
    };

    type Config = ();

    fn new(_: ()) -> VolumeSnapshot {
        VolumeSnapshot::default()
    }

    /// A guest that was saved while frozen, freezing or thawing is thawed at once: whoever froze it is gone.
    fn restore(_: (), saved: &SavedService, version: Option<Version>, _now: Time) -> VolumeSnapshot {
        let mut service = VolumeSnapshot { ready: version.is_some(), ..VolumeSnapshot::default() };
        if saved.owes_thaw && service.ready {
            service.go(Step::Thawing { attempt: 0 });
        }
        service
    }

    fn save(&self) -> SavedService {
        let owes_thaw = !matches!(self.step, Step::Idle | Step::Asking | Step::Completing);
        SavedService { owes_thaw, ..SavedService::default() }
    }

    fn inspect(&self) -> serde_json::Value {
        let state = match self.state() {
            FreezeState::Running => "running",
            FreezeState::Freezing => "freezing",
            FreezeState::Frozen => "frozen",
            FreezeState::Thawing => "thawing",
        };
        serde_json::json!({ "state": state, "watchdog_thaws": self.watchdog_thaws })
    }

    fn ready(&mut self, _now: Time, _version: Version, _later: &mut Later) {
        self.ready = true;
    }

    fn closed(&mut self, _now: Time, later: &mut Later) {
        self.ready = false;
        (self.step, self.due, self.failure) = (Step::Idle, false, None);
        self.answer(Err(ServiceError::Closed { service: Self::IDENTITY.name, what: "a freeze or thaw" }), later);
    }

    fn next_request(&mut self, _now: Time, _later: &mut Later) -> Option<Request> {
        let (operation, patience) = match self.step {
            _ if !self.due => return None,
            Step::Idle | Step::Frozen { .. } => return None,
            Step::Asking => (HOT_BACKUP, PATIENCE),
            Step::Freezing => (FREEZE, FREEZE_PATIENCE),
            Step::Thawing { .. } => (THAW, PATIENCE),
            Step::Completing => (BACKUP_COMPLETE, PATIENCE),
        };
        self.due = false;
        let mut data = vec![0; DATA];
        data[0] = operation;
        Some(Request { data, patience: Some(patience) })
    }

    fn outcome(&mut self, now: Time, outcome: Outcome<'_>, later: &mut Later) {
        match self.step {
            Step::Asking => match failure("to be frozen", outcome, PATIENCE) {
                None => self.go(Step::Freezing),
                Some(error) => {
                    self.step = Step::Idle;
                    self.answer(Err(error), later);
                }
            },
            Step::Freezing => match failure("to freeze its file systems", outcome, FREEZE_PATIENCE) {
                None => {
                    self.step = Step::Frozen { until: now + self.hold };
                    self.answer(Ok(()), later);
                }
                Some(error) => self.give_up(error),
            },
            Step::Thawing { attempt } => {
                match failure("to thaw its file systems", outcome, PATIENCE) {
                    Some(_) if attempt + 1 < THAW_ATTEMPTS => return self.go(Step::Thawing { attempt: attempt + 1 }),
                    Some(error) => self.failure = Some(error),
                    None => {}
                }
                let result = self.failure.take().map_or(Ok(()), Err);
                self.go(Step::Completing);
                self.answer(result, later);
            }
            Step::Completing => self.step = Step::Idle,
            Step::Idle | Step::Frozen { .. } => {}
        }
    }

    fn deadline(&self) -> Option<Time> {
        match self.step {
            Step::Frozen { until } => Some(until),
            _ => None,
        }
    }

    fn tick(&mut self, now: Time, _later: &mut Later) {
        if let Step::Frozen { until } = self.step
            && until <= now
        {
            self.watchdog_thaws += 1;
            self.go(Step::Thawing { attempt: 0 });
        }
    }
}

impl std::fmt::Debug for VolumeSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VolumeSnapshot").field("ready", &self.ready).field("step", &self.step).finish()
    }
}
