//! A service as a device on the bus: its conversation, its channel and its timer.

use crate::conversation::{Conversation, Later, Phase, Service};
use crate::saved_state::{self, SavedConversation};
use bulkhead_device::{Device, QuiesceToken};
use bulkhead_guest_log::{GuestLog, guest_debug, guest_warn};
use bulkhead_reactor::{Reactor, Time, Timer};
use bulkhead_saved_state::{SavedState, SavedStateError};
use bulkhead_vmbus_channel::{Channel, ChannelDevice, Offer, OpenRefused, Outgoing, Packet, SendError};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at something that cannot go on.
const RETRY: Duration = Duration::from_millis(100);

/// One integration service.
pub struct IntegrationDevice<S: Service> {
    reactor: Reactor,
    log: GuestLog,
    conversation: Conversation<S>,
    channel: Option<Channel>,
    /// A packet that waits for room.
    unsent: Option<Vec<u8>>,
    timer: Timer,
}

impl<S: Service> IntegrationDevice<S> {
    /// A service whose channel is closed.
    pub fn new(reactor: &Reactor, config: S::Config) -> Arc<Mutex<IntegrationDevice<S>>> {
        IntegrationDevice::with(reactor, Conversation::new(S::new(config)), None)
    }

    /// The service that was saved.
    ///
    /// # Errors
    /// The state is not one of this kind.
    pub fn restore(
        reactor: &Reactor,
        config: S::Config,
        state: &SavedState,
    ) -> Result<Arc<Mutex<IntegrationDevice<S>>>, SavedStateError> {
        let saved: SavedConversation = state.decode(1..=saved_state::VERSION)?;
        let conversation = saved_state::restore(config, &saved, reactor.now());
        Ok(IntegrationDevice::with(reactor, conversation, saved.unsent))
    }

    fn with(
        reactor: &Reactor,
        conversation: Conversation<S>,
        unsent: Option<Vec<u8>>,
    ) -> Arc<Mutex<IntegrationDevice<S>>> {
        Arc::new_cyclic(|weak: &std::sync::Weak<Mutex<IntegrationDevice<S>>>| {
            let weak = weak.clone();
            let timer = reactor.timer(move |now| {
                if let Some(device) = weak.upgrade() {
                    device.lock().work(|conversation, _, later| conversation.tick(now, later));
                }
            });
            let log = GuestLog::new(reactor, S::IDENTITY.name);
            let reactor = reactor.clone();
            Mutex::new(IntegrationDevice { reactor, log, conversation, channel: None, unsent, timer })
        })
    }

    /// What to offer on the bus.
    pub fn offer() -> Offer {
        Offer::pipe(S::IDENTITY.name, S::IDENTITY.class, S::IDENTITY.instance)
    }

    /// The service, for questions.
    pub fn service(&self) -> &S {
        &self.conversation.service
    }

    /// Where the conversation with the guest is.
    pub fn phase(&self) -> Phase {
        self.conversation.phase()
    }

    /// Asks the service for something, and sends what that needs. Answers come on the reactor's loop.
    pub fn ask(&mut self, request: impl FnOnce(&mut S, &mut Later)) {
        self.work(|conversation, _, later| request(&mut conversation.service, later));
    }

    /// Does something with the conversation, then what follows from it.
    fn work(&mut self, work: impl FnOnce(&mut Conversation<S>, Time, &mut Later)) {
        let mut later = Later::new();
        let now = self.reactor.now();
        work(&mut self.conversation, now, &mut later);
        self.send(now, &mut later);
        match self.conversation.deadline() {
            // What was due has been done. What is due still waits for the guest: a timer that is always due would keep all
            // others of the VM from firing.
            Some(at) => self.timer.set(at.max(now + RETRY)),
            None => self.timer.cancel(),
        }
        if !later.is_empty() {
            self.reactor.post(move || later.into_iter().for_each(|done| done()));
        }
    }

    fn send(&mut self, now: Time, later: &mut Later) {
        let Some(channel) = &mut self.channel else { return };
        while let Some(packet) = self.unsent.take().or_else(|| self.conversation.poll(now, later)) {
            let outgoing = Outgoing::InBand { transaction: 0, wants_completion: false, payload: &packet };
            match channel.send(outgoing) {
                Ok(()) => {}
                Err(SendError::Full { .. }) => {
                    self.unsent = Some(packet);
                    return;
                }
                Err(error) => {
                    // Its request times out.
                    guest_warn!(self.log, "a message to the guest is lost: {error}");
                    return;
                }
            }
        }
    }
}

impl<S: Service> ChannelDevice for IntegrationDevice<S> {
    fn open(&mut self, channel: Channel) -> Result<(), OpenRefused> {
        let restored = channel.is_restored();
        self.channel = Some(channel);
        if !restored {
            self.unsent = None;
        }
        self.work(|conversation, _, _| {
            if !restored || conversation.phase() == Phase::Closed {
                conversation.opened();
            }
        });
        Ok(())
    }

    fn close(&mut self, _index: u16, quiet: QuiesceToken) {
        (self.channel, self.unsent) = (None, None);
        self.work(|conversation, now, later| conversation.closed(now, later));
        drop(quiet);
    }

    fn signalled(&mut self, _index: u16) {
        let mut packet = Packet::default();
        // The sizes of rings bound how much a guest can have waiting; what comes meanwhile is signalled again.
        for _ in 0..64 {
            let Some(channel) = &mut self.channel else { return };
            if !channel.receive_into(&mut packet) {
                break;
            }
            let mut broken = None;
            self.work(|conversation, now, later| {
                let was = conversation.phase();
                broken = conversation.receive(now, packet.payload(), later).err();
                if conversation.phase() != was {
                    tracing::debug!(service = S::IDENTITY.name, phase = ?conversation.phase(), "negotiated");
                }
            });
            if let Some(error) = broken {
                guest_debug!(self.log, "a message of the guest is ignored: {error}");
            }
        }
        let more = self.channel.as_ref().filter(|channel| channel.has_packets());
        more.inspect(|channel| channel.wake());
        self.work(|_, _, _| {});
    }
}

impl<S: Service> Device for IntegrationDevice<S> {
    fn name(&self) -> &str {
        S::IDENTITY.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let saved = saved_state::save(&self.conversation, self.unsent.as_ref());
        SavedState::encode(saved_state::KIND, saved_state::VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        let versions = match self.conversation.phase() {
            Phase::Ready(agreed) => json!({
                "framework": agreed.framework.to_string(),
                "message": agreed.message.to_string(),
            }),
            _ => serde_json::Value::Null,
        };
        json!({
            "phase": match self.conversation.phase() {
                Phase::Closed => "closed",
                Phase::Negotiating => "negotiating",
                Phase::Ready(_) => "ready",
                Phase::Refused => "refused",
            },
            "versions": versions,
            "service": self.conversation.service.inspect(),
        })
    }

    /// The bus closes the channel, and that resets the rest.
    fn reset(&mut self) {}

    fn start(&mut self) {
        self.work(|conversation, now, _| conversation.service.resumed(now));
    }
}
