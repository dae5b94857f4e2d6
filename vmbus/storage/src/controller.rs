//! The controller: its channels, its session with the guest's driver, and what it does as a device.

use crate::completions::Finished;
use crate::luns::Lun;
use crate::saved_state::{self, SavedController};
use crate::vstor::{self, Operation, status};
use crate::{Attachment, LunConfig, LunError, MAX_LUNS};
use bulkhead_device::{Device, QuiesceToken};
use bulkhead_guest_log::{GuestLog, guest_warn};
use bulkhead_reactor::Reactor;
use bulkhead_saved_state::{SavedState, SavedStateError};
use bulkhead_scsi_target::Identity;
use bulkhead_vmbus_channel::{Channel, ChannelDevice, OpenRefused, Outgoing, Packet, PacketKind};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// Requests that may be with the disks at once: more than any driver has, few enough for the host's memory.
const MAX_IN_FLIGHT: usize = 1024;
/// Packets taken in one call: a VP that only feeds us must not keep the thread that serves it.
const PACKETS_PER_CALL: usize = 256;
/// Protocol versions that we speak: Windows Server 2012, 2012 R2, 2016.
const VERSIONS: [u16; 3] = [0x0501, 0x0600, 0x0602];

/// What a controller is connected to.
pub struct Wiring {
    /// The VM's loop: completions come back on it.
    pub reactor: Reactor,
    /// What it is for the guest.
    pub attachment: Attachment,
}

/// A SCSI controller, or the fast path of an IDE disk. See the crate's documentation.
pub struct Controller {
    name: String,
    pub(crate) attachment: Attachment,
    pub(crate) log: GuestLog,
    pub(crate) luns: BTreeMap<u8, Lun>,
    pub(crate) session: Session,
    pub(crate) slots: Vec<Slot>,
    pub(crate) finished: Arc<Finished>,
    /// Requests with disks, on all channels.
    pub(crate) in_flight: usize,
    /// Resets that wait for them: channel and transaction.
    resets: Vec<(u16, u64)>,
    /// The guest is to look which units there are.
    pub(crate) enumerate: bool,
    paused: bool,
    quiet: Option<QuiesceToken>,
    /// Used again for every packet.
    packet: Packet,
}

/// One channel.
#[derive(Default)]
pub(crate) struct Slot {
    pub channel: Option<Channel>,
    /// Its requests with disks.
    pub in_flight: usize,
    /// It was closed and waits for them.
    pub closing: Option<QuiesceToken>,
}

/// How far the driver is (see `vmbus.md`, "Init sequence": begin, version, properties, end).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Session {
    pub begun: bool,
    /// Agreed protocol version; 0 before.
    pub version: u16,
    /// Requests are accepted.
    pub ready: bool,
}

impl Controller {
    /// A controller with these units.
    ///
    /// # Errors
    /// A place that does not exist (IDE has only unit 0).
    pub fn new(
        name: impl Into<String>,
        wiring: Wiring,
        luns: impl IntoIterator<Item = (u8, LunConfig)>,
    ) -> Result<Arc<Mutex<Controller>>, LunError> {
        let name = name.into();
        let Wiring { reactor, attachment } = wiring;
        let mut controller = Controller {
            log: GuestLog::new(&reactor, name.clone()),
            name,
            attachment,
            luns: BTreeMap::new(),
            session: Session::default(),
            slots: Vec::new(),
            finished: Finished::new(reactor),
            in_flight: 0,
            resets: Vec::new(),
            enumerate: false,
            paused: true,
            quiet: None,
            packet: Packet::default(),
        };
        let places = if controller.is_scsi() { MAX_LUNS } else { 1 };
        for (lun, config) in luns {
            if lun >= places {
                return Err(LunError::OutOfRange(lun));
            }
            let state = controller.new_lun(lun, config);
            if controller.luns.insert(lun, state).is_some() {
                return Err(LunError::InUse(lun));
            }
        }
        let finished = controller.finished.clone();
        let controller = Arc::new(Mutex::new(controller));
        finished.set_controller(&controller);
        Ok(controller)
    }

    /// The controller as it was saved. Units come from the description, their state from `saved`.
    ///
    /// # Errors
    /// A saved state that cannot be read, or units that cannot be.
    pub fn restored(
        name: impl Into<String>,
        wiring: Wiring,
        luns: impl IntoIterator<Item = (u8, LunConfig)>,
        saved: &SavedState,
    ) -> Result<Arc<Mutex<Controller>>, RestoreError> {
        let state: SavedController = saved.decode(saved_state::VERSION..=saved_state::VERSION)?;
        let controller = Controller::new(name, wiring, luns)?;
        state.apply(&mut controller.lock());
        Ok(controller)
    }

    pub(crate) fn is_scsi(&self) -> bool {
        matches!(self.attachment, Attachment::Scsi { .. })
    }

    /// Disks without an identity of their own get one from their place, so that the guest's names for them are stable.
    pub(crate) fn new_lun(&self, lun: u8, config: LunConfig) -> Lun {
        let place = self.attachment.offer(String::new()).instance;
        Lun::new(config, |facts| {
            let mut facts = facts.clone();
            if facts.identity.is_nil() {
                // The first twelve bytes are what names are made of.
                let mut id = *place.as_bytes();
                (id[10], id[11]) = (id[15], lun);
                facts.identity = Uuid::from_bytes(id);
            }
            Identity::disk(&facts)
        })
    }

    /// Tells the guest to look for units, now or when there is room and a driver.
    pub(crate) fn enumerate_soon(&mut self) {
        self.enumerate = true;
        self.send_enumerate();
        self.flush();
    }

    fn send_enumerate(&mut self) {
        if !self.enumerate || !self.session.ready || self.paused {
            return;
        }
        let Some(Slot { channel: Some(channel), in_flight, .. }) = self.slots.first_mut() else { return };
        // Rooms of completions are not for this.
        if channel.reserve(vstor::RING_LEN * (*in_flight + 1 + self.resets.len())) {
            let payload = &vstor::enumerate_bus();
            let sent = channel.push(Outgoing::InBand { transaction: 0, wants_completion: false, payload });
            self.enumerate = sent.is_err();
        }
    }

    /// Takes packets from a channel while there is room for their completions.
    fn serve(&mut self, index: u16) {
        self.send_enumerate();
        let mut packet = std::mem::take(&mut self.packet);
        let mut left = PACKETS_PER_CALL;
        while !self.paused && self.resets.is_empty() && self.in_flight < MAX_IN_FLIGHT {
            let Some(slot) = self.slots.get_mut(usize::from(index)) else { break };
            let Some(channel) = &mut slot.channel else { break };
            if left == 0 {
                channel.wake();
                break;
            }
            left -= 1;
            if !channel.reserve(vstor::RING_LEN * (slot.in_flight + 1)) || !channel.receive_into(&mut packet) {
                break;
            }
            self.handle(index, &packet);
        }
        self.packet = packet;
        self.flush();
    }

    pub(crate) fn serve_all(&mut self) {
        (0..self.slots.len()).for_each(|index| self.serve(index as u16));
    }

    /// Shows the guest all answers.
    fn flush(&mut self) {
        self.slots.iter_mut().filter_map(|slot| slot.channel.as_mut()).for_each(Channel::flush);
    }

    /// Answers a packet. There is room: it was reserved before the packet was taken.
    pub(crate) fn reply(&mut self, index: u16, transaction: u64, answer: &[u8; vstor::LEN]) {
        let channel = self.slots.get_mut(usize::from(index)).and_then(|slot| slot.channel.as_mut());
        // A channel that is closed or broken needs no answers.
        let Some(channel) = channel.filter(|channel| !channel.is_broken()) else { return };
        let payload = answer.as_slice();
        if let Err(error) = channel.push(Outgoing::Completion { transaction, payload }) {
            channel.fail(&error);
        }
    }

    fn handle(&mut self, index: u16, packet: &Packet) {
        let transaction = packet.transaction();
        if packet.kind() == PacketKind::Completion {
            return;
        }
        let Some(operation) = vstor::parse(packet.payload()) else {
            guest_warn!(self.log, "a packet of {} bytes is no storage request", packet.payload().len());
            return self.reply(index, transaction, &vstor::answer(status::INVALID_PARAMETER));
        };
        match operation {
            Operation::ExecuteSrb(srb) if self.session.ready => {
                let data = packet.data();
                let list = self.slots[usize::from(index)].channel.as_ref().map(|channel| channel.scatter_list(data));
                self.execute(index, transaction, srb, list);
            }
            Operation::Reset => {
                self.resets.push((index, transaction));
                self.finish_resets();
            }
            other => {
                let answer = self.initialize(index, other);
                self.reply(index, transaction, &answer);
            }
        }
    }

    /// The dialogue of a driver that starts.
    fn initialize(&mut self, index: u16, operation: Operation) -> [u8; vstor::LEN] {
        let agreed = self.session.version != 0;
        match operation {
            _ if index != 0 => vstor::answer(status::INVALID_DEVICE_STATE),
            Operation::BeginInitialization => {
                self.session = Session { begun: true, ..Session::default() };
                vstor::answer(status::SUCCESS)
            }
            Operation::QueryProtocolVersion(version) if self.session.begun => {
                let known = VERSIONS.contains(&version);
                self.session.version = if known { version } else { 0 };
                vstor::answer(if known { status::SUCCESS } else { status::REVISION_MISMATCH })
            }
            Operation::QueryProperties if agreed => vstor::properties(self.attachment.sub_channels()),
            Operation::EndInitialization if agreed => {
                self.session.ready = true;
                // It scans by itself.
                self.enumerate = false;
                vstor::answer(status::SUCCESS)
            }
            Operation::CreateSubChannels(count) if self.session.ready => {
                let primary = self.slots.first().and_then(|slot| slot.channel.as_ref());
                let limit = self.attachment.sub_channels();
                if count > limit || count == 0 {
                    return vstor::answer(status::INVALID_PARAMETER);
                }
                primary.map(|channel| channel.grant_sub_channels(count));
                vstor::answer(status::SUCCESS)
            }
            other => {
                guest_warn!(self.log, ?other, "an operation that is not supported, or comes too early");
                vstor::answer(status::INVALID_DEVICE_STATE)
            }
        }
    }

    /// Answers resets when nothing is with the disks any more.
    pub(crate) fn finish_resets(&mut self) {
        if self.in_flight == 0 {
            for (index, transaction) in std::mem::take(&mut self.resets) {
                self.reply(index, transaction, &vstor::answer(status::SUCCESS));
            }
        }
    }

    /// After requests ended: what waited for that.
    pub(crate) fn settle(&mut self) {
        self.finish_resets();
        for slot in self.slots.iter_mut().filter(|slot| slot.in_flight == 0) {
            slot.closing = None;
        }
        if self.in_flight == 0 {
            self.quiet = None;
        }
        self.serve_all();
    }
}

/// A controller cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Its saved state.
    #[error(transparent)]
    State(#[from] SavedStateError),
    /// Its units.
    #[error(transparent)]
    Lun(#[from] LunError),
}

impl ChannelDevice for Controller {
    fn open(&mut self, channel: Channel) -> Result<(), OpenRefused> {
        let index = usize::from(channel.index());
        if index == 0 && !channel.is_restored() {
            self.session = Session::default();
        }
        self.slots.resize_with(self.slots.len().max(index + 1), Slot::default);
        self.slots[index].channel = Some(channel);
        Ok(())
    }

    fn close(&mut self, index: u16, quiet: QuiesceToken) {
        let Some(slot) = self.slots.get_mut(usize::from(index)) else { return };
        slot.channel = None;
        if slot.in_flight > 0 {
            slot.closing = Some(quiet);
        }
        self.resets.retain(|(channel, _)| *channel != index);
        if index == 0 {
            self.session = Session::default();
        }
    }

    fn signalled(&mut self, index: u16) {
        self.serve(index);
    }
}

impl Device for Controller {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        SavedState::encode(saved_state::KIND, saved_state::VERSION, &SavedController::of(self))
    }

    fn inspect(&self) -> Value {
        let luns: serde_json::Map<String, Value> = self
            .luns
            .iter()
            .map(|(number, lun)| {
                let facts = lun.disk.as_ref().map(|disk| disk.facts());
                let medium = facts.map(|facts| json!({ "size": facts.size, "format": facts.format }));
                (number.to_string(), json!({ "kind": format!("{:?}", lun.unit.kind()), "medium": medium }))
            })
            .collect();
        json!({
            "luns": luns,
            "protocol": format!("{}.{}", self.session.version >> 8, self.session.version & 0xff),
            "ready": self.session.ready,
            "channels": self.slots.iter().filter(|slot| slot.channel.is_some()).count(),
            "in_flight": self.in_flight,
        })
    }

    fn reset(&mut self) {
        self.luns.values_mut().for_each(|lun| lun.unit.reset());
        self.session = Session::default();
        self.enumerate = false;
    }

    fn start(&mut self) {
        self.paused = false;
        // What came while others were still paused.
        self.serve_all();
    }

    fn pause(&mut self, quiet: QuiesceToken) {
        self.paused = true;
        if self.in_flight > 0 {
            self.quiet = Some(quiet);
        }
    }
}
