//! Heartbeat: a question every two seconds; whether the guest still answers is the state that people see.

use crate::conversation::{Identity, Later, Outcome, Request, Service};
use crate::message::Version;
use crate::saved_state::SavedService;
use bulkhead_reactor::Time;
use bulkhead_vmbus_channel::class;
use std::sync::Arc;
use std::time::Duration;
use uuid::uuid;

/// From one answer to the next question.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// A question that stays open for so long means that communication is lost.
pub const PATIENCE: Duration = Duration::from_secs(10);

const DATA: usize = 8 + 32;

/// What the heartbeat says about the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeartbeatState {
    /// The guest has no driver for it, or none yet.
    NoContact,
    /// It answers.
    Ok,
    /// It has stopped answering.
    Lost,
}

impl HeartbeatState {
    /// The name that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            HeartbeatState::NoContact => "no contact",
            HeartbeatState::Ok => "ok",
            HeartbeatState::Lost => "lost",
        }
    }
}

/// Hears of changes.
pub type Observer = Arc<dyn Fn(HeartbeatState) + Send + Sync>;

/// The service.
pub struct Heartbeat {
    state: HeartbeatState,
    sequence: u64,
    /// The open question's time limit.
    lost_at: Option<Time>,
    next: Option<Time>,
    /// What the guest says about its applications in its last answer; 0 from Linux.
    application: u32,
    observer: Observer,
}

impl Heartbeat {
    /// Whether the guest answers.
    pub fn state(&self) -> HeartbeatState {
        self.state
    }

    /// The guest's application state as it came, 0 when it says nothing.
    pub fn application(&self) -> u32 {
        self.application
    }

    fn set_state(&mut self, state: HeartbeatState, later: &mut Later) {
        if std::mem::replace(&mut self.state, state) != state {
            let observer = self.observer.clone();
            later.push(Box::new(move || observer(state)));
        }
    }
}

impl Service for Heartbeat {
    const IDENTITY: Identity = Identity {
        name: "heartbeat",
        class: class::HEARTBEAT,
        instance: uuid!("fd149e91-82e0-4a7d-afa6-2a4166cbd7c0"),
        message_type: 1,
        frameworks: &[Version::new(3, 0), Version::new(1, 0)],
        messages: &[Version::new(3, 0), Version::new(1, 0)],
    };

    type Config = Observer;

    fn new(observer: Observer) -> Heartbeat {
        let state = HeartbeatState::NoContact;
        Heartbeat { state, sequence: 0, lost_at: None, next: None, application: 0, observer }
    }

    fn restore(observer: Observer, saved: &SavedService, version: Option<Version>, now: Time) -> Heartbeat {
        let mut heart = Heartbeat::new(observer);
        heart.sequence = saved.sequence;
        if version.is_some() {
            heart.state = HeartbeatState::Ok;
            // A question may be open from before; its answer is due as for a fresh one.
            (heart.lost_at, heart.next) = (Some(now + PATIENCE), Some(now));
        }
        heart
    }

    fn save(&self) -> SavedService {
        SavedService { sequence: self.sequence, ..SavedService::default() }
    }

    fn inspect(&self) -> serde_json::Value {
        serde_json::json!({ "state": self.state.name(), "application": self.application })
    }

    fn ready(&mut self, now: Time, _version: Version, _later: &mut Later) {
        self.next = Some(now);
    }

    fn closed(&mut self, _now: Time, later: &mut Later) {
        (self.lost_at, self.next) = (None, None);
        self.set_state(HeartbeatState::NoContact, later);
    }

    fn next_request(&mut self, now: Time, _later: &mut Later) -> Option<Request> {
        self.next.filter(|next| *next <= now)?;
        self.next = None;
        self.lost_at = Some(now + PATIENCE);
        let mut data = vec![0; DATA];
        data[..8].copy_from_slice(&self.sequence.to_le_bytes());
        // A guest that wakes up after hours answers this question then: no second one is needed, and the ring never fills.
        Some(Request { data, patience: None })
    }

    fn outcome(&mut self, now: Time, outcome: Outcome<'_>, later: &mut Later) {
        let Outcome::Reply { data, .. } = outcome else { return };
        if let Some(answer) = data.first_chunk::<12>() {
            let (sequence, application) = answer.split_at(8);
            // The guest adds one; whatever it sends, the next question counts on from there as real hosts' do.
            self.sequence = u64::from_le_bytes(sequence.try_into().expect("8 bytes")).wrapping_add(1);
            self.application = u32::from_le_bytes(application.try_into().expect("4 bytes"));
        }
        self.lost_at = None;
        self.next = Some(now + INTERVAL);
        self.set_state(HeartbeatState::Ok, later);
    }

    fn deadline(&self) -> Option<Time> {
        [self.lost_at, self.next].into_iter().flatten().min()
    }

    fn tick(&mut self, now: Time, later: &mut Later) {
        if self.lost_at.is_some_and(|at| at <= now) {
            self.lost_at = None;
            self.set_state(HeartbeatState::Lost, later);
        }
    }
}

impl std::fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heartbeat").field("state", &self.state).field("sequence", &self.sequence).finish()
    }
}
