//! The bus itself: what comes in from VPs, and the task that handles it.

use crate::calls::Call;
use crate::doorbell::Doorbell;
use crate::messages::Progress;
use crate::saved_state::{self, SavedBus};
use crate::state::State;
use bulkhead_device::QuiesceToken;
use bulkhead_guest_log::{GuestLog, guest_warn};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_hyperv::{HypercallPorts, HypercallStatus, SynicPort};
use bulkhead_reactor::Reactor;
use bulkhead_saved_state::{SavedState, SavedStateError};
use bulkhead_vmbus_channel::SocketAcceptor;
use bulkhead_vmbus_protocol::{ConnectionId, MAX_RELID, MESSAGE_TYPE, SINT};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Messages that may wait; then guests are told to try again.
const MAX_INBOX: usize = 1024;
/// Messages handled in one turn of the loop.
const MESSAGES_PER_TURN: usize = 256;

/// What the bus is connected to.
pub struct Wiring {
    /// The VM's loop.
    pub reactor: Reactor,
    /// RAM of the VM.
    pub memory: GuestMemory,
    /// The way to the guest.
    pub synic: Arc<dyn SynicPort>,
    /// Processors of the VM.
    pub vps: u32,
}

/// VMBus of one VM.
pub struct VmBus {
    pub(crate) wiring: Wiring,
    pub(crate) log: GuestLog,
    pub(crate) state: Mutex<State>,
    /// By channel number: what a guest's signal rings.
    pub(crate) doorbells: RwLock<Vec<Option<Arc<Doorbell>>>>,
    pub(crate) acceptor: Mutex<Option<Arc<dyn SocketAcceptor>>>,
    pub(crate) paused: AtomicBool,
}

impl VmBus {
    /// A bus without devices, on which no guest is.
    pub fn new(wiring: Wiring) -> Arc<VmBus> {
        Self::with_state(wiring, State::default())
    }

    /// The bus as it was saved. The devices are to be offered again, restored themselves; then `Device::start`.
    ///
    /// # Errors
    /// A saved state that cannot be read.
    pub fn restored(wiring: Wiring, saved: &SavedState) -> Result<Arc<VmBus>, SavedStateError> {
        let saved: SavedBus = saved.decode(saved_state::VERSION..=saved_state::VERSION)?;
        Ok(Self::with_state(wiring, State::restored(saved)))
    }

    fn with_state(wiring: Wiring, state: State) -> Arc<VmBus> {
        let log = GuestLog::new(&wiring.reactor, "vmbus");
        Arc::new(VmBus {
            wiring,
            log,
            state: Mutex::new(state),
            doorbells: RwLock::new(vec![None; MAX_RELID as usize + 1]),
            acceptor: Mutex::new(None),
            // Nothing is called before the VM starts.
            paused: AtomicBool::new(true),
        })
    }

    /// Who takes connections of programs in the guest; without one they are refused.
    pub fn set_socket_acceptor(&self, acceptor: Arc<dyn SocketAcceptor>) {
        *self.acceptor.lock() = Some(acceptor);
    }

    /// Lets the loop look at inbox and calls.
    pub(crate) fn schedule(self: &Arc<Self>, state: &mut State) {
        if !std::mem::replace(&mut state.scheduled, true) {
            let bus = Arc::downgrade(self);
            self.wiring.reactor.post(move || {
                if let Some(bus) = bus.upgrade() {
                    bus.run();
                }
            });
        }
    }

    /// One turn: calls of devices that are due, then messages, until there are none or one has to wait.
    fn run(self: &Arc<Self>) {
        self.state.lock().scheduled = false;
        let mut left = MESSAGES_PER_TURN;
        loop {
            let call = {
                let mut state = self.state.lock();
                match state.calls.pop_front() {
                    Some(call) => call,
                    None if self.paused.load(Ordering::SeqCst) => return,
                    None if left == 0 => return self.schedule(&mut state),
                    None => {
                        left -= 1;
                        match self.handle_next(&mut state) {
                            Progress::Handled => continue,
                            Progress::Waits => match state.calls.pop_front() {
                                Some(call) => call,
                                None => return,
                            },
                        }
                    }
                }
            };
            self.execute(call);
        }
    }

    /// Power-on reset: the guest is gone, whatever it had is closed.
    pub(crate) fn reset(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.inbox.clear();
        self.close_all(&mut state);
        self.disconnect(&mut state);
        self.wiring.synic.discard_messages(SINT);
        self.schedule(&mut state);
    }

    /// Calls no device any more; `quiet` is dropped when those that run have returned.
    pub(crate) fn pause(self: &Arc<Self>, quiet: QuiesceToken) {
        self.paused.store(true, Ordering::SeqCst);
        let bus = Arc::downgrade(self);
        self.wiring.reactor.post(move || {
            // Closes that are due are not put off: whoever saves wants to see them done.
            if let Some(bus) = bus.upgrade() {
                bus.run();
            }
            drop(quiet);
        });
    }

    /// The VM goes on. Everybody looks at their channels: signals were not passed on meanwhile.
    pub(crate) fn start(self: &Arc<Self>) {
        self.paused.store(false, Ordering::SeqCst);
        {
            let mut state = self.state.lock();
            self.finish_restore(&mut state);
            self.schedule(&mut state);
        }
        let doorbells: Vec<_> = self.doorbells.read().iter().flatten().cloned().collect();
        doorbells.iter().for_each(|doorbell| doorbell.call_soon());
    }

    pub(crate) fn doorbell(&self, relid: u32) -> Option<Arc<Doorbell>> {
        self.doorbells.read().get(relid as usize)?.clone()
    }

    pub(crate) fn execute(self: &Arc<Self>, call: Call) {
        match call {
            Call::Open(open) => self.open_device(*open),
            Call::Close(close) => self.close_device(close),
            Call::Connect { endpoint, service } => self.connect_socket(endpoint, service),
            // What it holds may tell the bus of its end, so it is not dropped under the lock.
            Call::Drop(garbage) => drop(garbage),
        }
    }
}

/// The bus as the Hyper-V interface sees it.
pub(crate) struct Ports(pub Arc<VmBus>);

impl VmBus {
    /// What takes the guest's hypercalls: for `HyperV::connect`.
    pub fn ports(self: &Arc<Self>) -> Arc<dyn HypercallPorts> {
        Arc::new(Ports(self.clone()))
    }
}

impl HypercallPorts for Ports {
    fn post_message(&self, connection_id: u32, message_type: u32, payload: &[u8]) -> HypercallStatus {
        let known = [ConnectionId::MESSAGES.0, ConnectionId::MESSAGES_V5.0];
        if !known.contains(&connection_id) {
            return HypercallStatus::InvalidConnectionId;
        }
        if message_type != MESSAGE_TYPE {
            guest_warn!(self.0.log, "a posted message has type {message_type}; channel messages have {MESSAGE_TYPE}");
            return HypercallStatus::InvalidParameter;
        }
        let mut state = self.0.state.lock();
        if state.inbox.len() >= MAX_INBOX {
            return HypercallStatus::InsufficientBuffers;
        }
        state.inbox.push_back(payload.to_vec());
        self.0.schedule(&mut state);
        HypercallStatus::Success
    }

    fn signal_event(&self, connection_id: u32, flag: u16) -> HypercallStatus {
        let relid = connection_id & 0xfff;
        let ours = connection_id >> 12 == u32::from(SINT) && flag == 0;
        match self.0.doorbell(relid).filter(|_| ours) {
            Some(doorbell) => {
                doorbell.ring();
                HypercallStatus::Success
            }
            None => HypercallStatus::InvalidConnectionId,
        }
    }
}
