//! The device: negotiation, the guest's reports, and one request at a time that moves the VM towards its target.
//!
//! ```text
//! assigned = start + hot added − ballooned
//! assigned > target: balloon            assigned < target: unballoon, and when the balloon is empty, hot add
//! ```

use crate::message::{self, Capabilities, FromGuest, Status};
use crate::pages::PageSet;
use crate::policy::{self, Limits};
use crate::saved_state::{KIND, SavedMemory, VERSION};
use bulkhead_device::{Device, QuiesceToken};
use bulkhead_guest_log::{GuestLog, guest_info, guest_warn};
use bulkhead_guest_memory::PAGE_SIZE;
use bulkhead_reactor::{Reactor, Time, Timer};
use bulkhead_saved_state::{SavedState, SavedStateError};
use bulkhead_vmbus_channel::{Channel, ChannelDevice, Offer, OpenRefused, Outgoing, Packet, class};
use parking_lot::Mutex;
use serde_json::json;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use uuid::{Uuid, uuid};

const INSTANCE: Uuid = uuid!("1eccfd72-4b41-45ef-b73a-4a6e44c12924");
/// Versions of the driver that are spoken: 2.0, 1.0, 0.3.
const VERSIONS: [u32; 3] = [0x2_0000, 0x1_0000, 0x3];
/// Most pages of one request: 1 GiB. Guests work on a request for as long as it takes.
const MAX_REQUEST: u64 = 1 << 18;
/// A request without an answer is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// After a request that the guest could not fulfil.
const PAUSE: Duration = Duration::from_secs(10);
/// Differences from the target that are not worth a request: 4 MiB.
const TOLERANCE: u64 = 1024;

/// The host's side of the VM's memory.
pub trait RamSupply: Send + Sync {
    /// The guest does not use these addresses any more: their memory goes back to the host. They read as zeros afterwards,
    /// and using them again is allowed at any time.
    ///
    /// # Errors
    /// Not RAM, or the host refuses.
    fn release(&self, gpa: Range<u64>) -> Result<(), String>;

    /// Makes these addresses RAM; they may be RAM already.
    ///
    /// # Errors
    /// The host refuses.
    fn add(&self, gpa: Range<u64>) -> Result<(), String>;

    /// Memory of the host in bytes: all, and what is free. `None` when nobody knows.
    fn host_memory(&self) -> Option<(u64, u64)>;
}

/// What the VM may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// RAM that the VM starts with, in bytes.
    pub startup: u64,
    /// Where hot added RAM begins: a multiple of 128 MiB behind all other RAM.
    pub hot_add_base: u64,
    /// Behind the last address that can be RAM.
    pub address_limit: u64,
    /// Least, most, buffer, weight.
    pub limits: Limits,
}

/// What the VM is moved towards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// As the guest's demand and the host's free memory say.
    ByDemand,
    /// This many bytes.
    Fixed(u64),
}

/// What can be seen from outside, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryStatus {
    /// What the guest has now.
    pub assigned: u64,
    /// What it uses; `None` before its first report.
    pub demand: Option<u64>,
    /// What it has free.
    pub available: Option<u64>,
    /// What it is being moved towards.
    pub target: Option<u64>,
    /// What its balloon holds.
    pub ballooned: u64,
    /// What was hot added.
    pub hot_added: u64,
    /// The guest's driver is in use.
    pub ready: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Agreed,
    Ready,
}

/// The request in the works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Busy {
    Idle,
    /// So many pages were asked for and have not come.
    Ballooning(u64),
    Unballooning,
    Adding(u64),
}

/// Dynamic memory of one VM.
pub struct DynamicMemory {
    log: GuestLog,
    reactor: Reactor,
    config: MemoryConfig,
    supply: Arc<dyn RamSupply>,
    channel: Option<Channel>,
    phase: Phase,
    capabilities: Capabilities,
    transaction: u32,
    ballooned: PageSet,
    hot_added: u64,
    busy: Busy,
    status: Option<Status>,
    target: Target,
    /// By demand: what it comes to, in pages.
    wanted: Option<u64>,
    unsent: Vec<Vec<u8>>,
    /// While busy: when to give up; idle: when to try again.
    timer: Timer,
    not_before: Option<Time>,
}

impl DynamicMemory {
    /// Its name in the machine.
    pub const NAME: &str = "dynamic_memory";

    /// A device that no driver has opened.
    pub fn new(reactor: &Reactor, config: MemoryConfig, supply: Arc<dyn RamSupply>) -> Arc<Mutex<DynamicMemory>> {
        DynamicMemory::with(reactor, config, supply, &SavedMemory::default())
    }

    /// The device that was saved. Ranges that were hot added are added again.
    ///
    /// # Errors
    /// The state is not one of this kind.
    pub fn restore(
        reactor: &Reactor,
        config: MemoryConfig,
        supply: Arc<dyn RamSupply>,
        state: &SavedState,
    ) -> Result<Arc<Mutex<DynamicMemory>>, SavedStateError> {
        let saved = state.decode(1..=VERSION)?;
        Ok(DynamicMemory::with(reactor, config, supply, &saved))
    }

    /// Bytes that were hot added, or being so, when this state was saved: they have to be RAM before the device is restored.
    ///
    /// # Errors
    /// The state is not one of this kind.
    pub fn hot_added_of(state: &SavedState) -> Result<u64, SavedStateError> {
        let saved: SavedMemory = state.decode(1..=VERSION)?;
        let adding = if saved.busy == 3 { saved.adding } else { 0 };
        Ok(saved.hot_added.saturating_add(adding).saturating_mul(PAGE_SIZE))
    }

    fn with(
        reactor: &Reactor,
        config: MemoryConfig,
        supply: Arc<dyn RamSupply>,
        saved: &SavedMemory,
    ) -> Arc<Mutex<DynamicMemory>> {
        let room = config.limits.maximum.saturating_sub(config.startup) / PAGE_SIZE;
        let mut ballooned = PageSet::new(config.address_limit / PAGE_SIZE);
        for (first, count) in &saved.ballooned {
            ballooned.insert(*first..first.saturating_add(*count));
        }
        let (balloon, hot_add, hot_add_unit) = saved.capabilities;
        Arc::new_cyclic(|weak: &std::sync::Weak<Mutex<DynamicMemory>>| {
            let weak = weak.clone();
            let timer = reactor.timer(move |now| {
                if let Some(device) = weak.upgrade() {
                    device.lock().timeout(now);
                }
            });
            Mutex::new(DynamicMemory {
                log: GuestLog::new(reactor, DynamicMemory::NAME),
                reactor: reactor.clone(),
                config,
                supply,
                channel: None,
                phase: match saved.phase {
                    1 => Phase::Agreed,
                    2 => Phase::Ready,
                    _ => Phase::Closed,
                },
                capabilities: Capabilities { balloon, hot_add, hot_add_unit: hot_add_unit.max(1) },
                transaction: saved.transaction,
                ballooned,
                hot_added: saved.hot_added.min(room),
                busy: match saved.busy {
                    // How much is missing does not matter: the next round sees it.
                    1 => Busy::Ballooning(MAX_REQUEST),
                    2 => Busy::Unballooning,
                    3 => Busy::Adding(saved.adding.min(room - saved.hot_added.min(room))),
                    _ => Busy::Idle,
                },
                status: saved.status.map(|(available, committed)| Status { available, committed }),
                target: saved.target.map_or(Target::ByDemand, Target::Fixed),
                wanted: None,
                unsent: Vec::new(),
                timer,
                not_before: None,
            })
        })
    }

    /// What to offer on the bus.
    pub fn offer() -> Offer {
        Offer::new(DynamicMemory::NAME, class::DYNAMIC_MEMORY, INSTANCE)
    }

    /// Moves the VM towards another target, within its limits.
    pub fn set_target(&mut self, target: Target) {
        self.target = match target {
            Target::Fixed(bytes) => Target::Fixed(bytes.clamp(self.config.limits.minimum, self.config.limits.maximum)),
            Target::ByDemand => Target::ByDemand,
        };
        self.not_before = None;
        self.pump();
    }

    /// Changes what the VM may have. The maximum cannot exceed that of the start.
    pub fn set_limits(&mut self, limits: Limits) {
        self.config.limits = Limits { maximum: limits.maximum.min(self.config.limits.maximum), ..limits };
        self.set_target(self.target);
    }

    /// How things are.
    pub fn status(&self) -> MemoryStatus {
        MemoryStatus {
            assigned: self.assigned() * PAGE_SIZE,
            demand: self.demand(),
            available: self.status.map(|status| status.available.saturating_mul(PAGE_SIZE)),
            target: self.target_pages().map(|pages| pages * PAGE_SIZE),
            ballooned: self.ballooned.len() * PAGE_SIZE,
            hot_added: self.hot_added * PAGE_SIZE,
            ready: self.phase == Phase::Ready && self.channel.is_some(),
        }
    }

    fn assigned(&self) -> u64 {
        (self.config.startup / PAGE_SIZE + self.hot_added).saturating_sub(self.ballooned.len())
    }

    /// What the guest uses, in bytes. It counts what its balloon holds as used.
    fn demand(&self) -> Option<u64> {
        let used = self.status?.committed.saturating_sub(self.ballooned.len());
        Some(used.saturating_mul(PAGE_SIZE))
    }

    fn target_pages(&self) -> Option<u64> {
        match self.target {
            Target::Fixed(bytes) => Some(bytes / PAGE_SIZE),
            Target::ByDemand => self.wanted,
        }
    }

    /// With a new report of the guest: what its demand comes to.
    fn decide(&mut self) {
        let vm =
            policy::Vm { limits: self.config.limits, assigned: self.assigned() * PAGE_SIZE, demand: self.demand() };
        let available = match self.supply.host_memory() {
            Some((total, free)) => vm.assigned.saturating_add(free.saturating_sub(policy::reserve(total))),
            None => u64::MAX,
        };
        self.wanted = policy::distribute(available, &[vm]).first().map(|bytes| bytes / PAGE_SIZE);
    }

    fn timeout(&mut self, _now: Time) {
        if self.busy != Busy::Idle {
            guest_warn!(self.log, "the guest did not finish {:?} within {} s", self.busy, PATIENCE.as_secs());
            self.busy = Busy::Idle;
        }
        self.not_before = None;
        self.pump();
    }

    /// The request is over; `short` when the guest did less than it was asked.
    fn finish(&mut self, short: bool) {
        self.busy = Busy::Idle;
        self.not_before = short.then(|| self.reactor.now() + PAUSE);
        match self.not_before {
            Some(at) => self.timer.set(at),
            None => self.timer.cancel(),
        }
    }

    /// Sends what waits, then the next request if there is one to make.
    fn pump(&mut self) {
        if self.flush() && self.phase == Phase::Ready && self.busy == Busy::Idle && self.not_before.is_none() {
            self.next_request();
            self.flush();
        }
    }

    /// Whether everything is sent.
    fn flush(&mut self) -> bool {
        let Some(channel) = &mut self.channel else { return false };
        while let Some(payload) = self.unsent.first() {
            let packet = Outgoing::InBand { transaction: 0, wants_completion: false, payload };
            if channel.send(packet).is_err() {
                return false;
            }
            self.unsent.remove(0);
        }
        true
    }

    fn next_request(&mut self) {
        let Some(target) = self.target_pages() else { return };
        let assigned = self.assigned();
        if assigned.abs_diff(target) < TOLERANCE {
            return;
        }
        self.transaction = self.transaction.wrapping_add(1);
        let transaction = self.transaction;
        if assigned > target {
            if !self.capabilities.balloon {
                return;
            }
            let pages = (assigned - target).min(MAX_REQUEST);
            self.busy = Busy::Ballooning(pages);
            self.unsent.push(message::balloon_request(transaction, pages as u32));
        } else if self.ballooned.len() > 0 {
            let pages = (target - assigned).min(message::MAX_RANGE_PAGES);
            let ranges = self.ballooned.take(pages, message::MAX_RANGES);
            self.busy = Busy::Unballooning;
            self.unsent.push(message::unballoon_request(transaction, &ranges));
        } else {
            let unit = self.capabilities.hot_add_unit;
            let room = (self.config.limits.maximum.saturating_sub(self.config.startup) / PAGE_SIZE) - self.hot_added;
            let short = match self.target {
                // What is too much the balloon takes back.
                Target::Fixed(_) => (target - assigned).next_multiple_of(unit),
                // Rounded down: never more than the host has.
                Target::ByDemand => (target - assigned) / unit * unit,
            };
            let pages = short.min(MAX_REQUEST / unit * unit).min(room / unit * unit);
            if !self.capabilities.hot_add || pages == 0 {
                return;
            }
            let first = self.config.hot_add_base / PAGE_SIZE + self.hot_added;
            if let Err(error) = self.supply.add(first * PAGE_SIZE..(first + pages) * PAGE_SIZE) {
                guest_warn!(self.log, "{} MiB cannot be added: {error}", pages >> 8);
                return self.finish(true);
            }
            self.busy = Busy::Adding(pages);
            self.unsent.push(message::hot_add_request(transaction, &(first..first + pages)));
        }
        self.timer.set(self.reactor.now() + PATIENCE);
    }

    fn message(&mut self, payload: &[u8]) {
        let message = match message::read(payload) {
            Ok(message) => message,
            Err(error) => {
                guest_warn!(self.log, "a message is ignored: {error}");
                return;
            }
        };
        let transaction = payload.get(4..8).and_then(|bytes| bytes.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
        match message {
            FromGuest::Version { version, last } => {
                let accepted = VERSIONS.contains(&version);
                guest_info!(
                    self.log,
                    "dynamic memory {}.{}: {accepted} (last: {last})",
                    version >> 16,
                    version & 0xffff
                );
                self.phase = if accepted { Phase::Agreed } else { Phase::Closed };
                self.unsent.push(message::version_response(transaction, accepted));
            }
            FromGuest::Capabilities(capabilities) if self.phase != Phase::Closed => {
                (self.capabilities, self.phase) = (capabilities, Phase::Ready);
                self.unsent.push(message::capabilities_response(transaction));
            }
            FromGuest::Status(status) if self.phase == Phase::Ready => {
                self.status = Some(status);
                self.decide();
            }
            FromGuest::Ballooned { ranges, more } => self.take_ballooned(&ranges, more),
            FromGuest::Unballooned if self.busy == Busy::Unballooning => self.finish(false),
            FromGuest::HotAdded { pages, success } => {
                if let Busy::Adding(asked) = self.busy {
                    let added = if success { pages.min(asked) } else { 0 };
                    self.hot_added += added;
                    self.finish(added < asked);
                }
            }
            other => guest_warn!(self.log, "an unexpected message is ignored: {other:?}"),
        }
    }

    /// Pages that were not asked for are not taken: a guest cannot make us free what it is still told to have.
    fn take_ballooned(&mut self, ranges: &[Range<u64>], more: bool) {
        let Busy::Ballooning(mut missing) = self.busy else {
            guest_warn!(self.log, "the guest ballooned pages that nobody asked for");
            return;
        };
        for range in ranges {
            let range = range.start..range.end.min(range.start + missing);
            if range.is_empty() {
                continue;
            }
            if let Err(error) = self.supply.release(range.start * PAGE_SIZE..range.end * PAGE_SIZE) {
                guest_warn!(self.log, "the guest ballooned pages {range:?}, which cannot be freed: {error}");
                continue;
            }
            missing -= self.ballooned.insert(range);
        }
        self.busy = Busy::Ballooning(missing);
        if !more {
            // What is short by less than a huge page is as good as asked.
            self.finish(missing >= TOLERANCE);
        }
    }

    fn forget(&mut self) {
        self.phase = Phase::Closed;
        self.busy = Busy::Idle;
        (self.status, self.wanted, self.not_before) = (None, None, None);
        self.unsent.clear();
        self.timer.cancel();
        // The guest that comes next knows nothing of a balloon; its pages are RAM that is used again when touched.
        self.ballooned.clear();
    }
}

impl ChannelDevice for DynamicMemory {
    fn open(&mut self, channel: Channel) -> Result<(), OpenRefused> {
        if !channel.is_restored() {
            self.forget();
        }
        self.channel = Some(channel);
        if self.busy != Busy::Idle {
            self.timer.set(self.reactor.now() + PATIENCE);
        }
        Ok(())
    }

    fn close(&mut self, _index: u16, quiet: QuiesceToken) {
        self.channel = None;
        self.forget();
        drop(quiet);
    }

    fn signalled(&mut self, _index: u16) {
        let mut packet = Packet::default();
        for _ in 0..16 {
            let Some(channel) = &mut self.channel else { return };
            // Answers that the guest does not read are bounded: it gets no new ones before.
            if self.unsent.len() > 4 || !channel.receive_into(&mut packet) {
                break;
            }
            self.message(packet.payload());
        }
        let more = |channel: &&Channel| channel.has_packets() && self.unsent.len() <= 4;
        if let Some(channel) = self.channel.as_ref().filter(more) {
            channel.wake();
        }
        self.pump();
    }
}

impl Device for DynamicMemory {
    fn name(&self) -> &str {
        DynamicMemory::NAME
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let Capabilities { balloon, hot_add, hot_add_unit } = self.capabilities;
        let (busy, adding) = match self.busy {
            Busy::Idle => (0, 0),
            Busy::Ballooning(_) => (1, 0),
            Busy::Unballooning => (2, 0),
            Busy::Adding(pages) => (3, pages),
        };
        let saved = SavedMemory {
            phase: match self.phase {
                Phase::Closed => 0,
                Phase::Agreed => 1,
                Phase::Ready => 2,
            },
            capabilities: (balloon, hot_add, hot_add_unit),
            transaction: self.transaction,
            ballooned: self.ballooned.runs().map(|range| (range.start, range.end - range.start)).collect(),
            hot_added: self.hot_added,
            busy,
            adding,
            status: self.status.map(|status| (status.available, status.committed)),
            target: match self.target {
                Target::ByDemand => None,
                Target::Fixed(bytes) => Some(bytes),
            },
        };
        SavedState::encode(KIND, VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        let MemoryStatus { assigned, demand, available, target, ballooned, hot_added, ready } = self.status();
        json!({
            "ready": ready, "assigned": assigned, "demand": demand, "available": available, "target": target,
            "ballooned": ballooned, "hot_added": hot_added, "busy": format!("{:?}", self.busy),
        })
    }

    /// After a reset the guest knows only the memory that it started with.
    fn reset(&mut self) {
        let base = self.config.hot_add_base;
        let added = base..base + std::mem::take(&mut self.hot_added) * PAGE_SIZE;
        if !added.is_empty()
            && let Err(error) = self.supply.release(added)
        {
            guest_warn!(self.log, "hot added memory cannot be freed: {error}");
        }
        self.forget();
    }
}
