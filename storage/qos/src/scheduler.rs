//! Which waiting request starts next; pure, time is a parameter.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::rate::Rate;
use crate::window::Window;

/// Bytes of a unit.
const UNIT: u64 = 8 << 10;
/// A disk of which nothing was started for this long goes first.
const STARVED: Duration = Duration::from_millis(500);
/// Credits are hundredths of a unit, so that weights are whole numbers.
const CREDIT: i64 = 100;

/// The balancer's knobs.
#[derive(Debug, Clone, PartialEq)]
pub struct Balance {
    /// Off: only the disks' own limits count.
    pub enabled: bool,
    /// The device should answer within this while it is busy.
    pub target_latency: Duration,
    /// Share of the device's time that changing between disks may cost.
    pub allowed_overhead: f64,
}

impl Default for Balance {
    fn default() -> Self {
        Self { enabled: true, target_latency: Duration::from_millis(83), allowed_overhead: 0.08 }
    }
}

/// What one disk may and should get. IOPS are counted in units of 8 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Served before others until it has this many per second.
    pub min_iops: Option<u64>,
    /// Never more than this many per second.
    pub max_iops: Option<u64>,
    /// Never more bytes than this per second.
    pub max_bandwidth: Option<u64>,
    /// Share among those that wait: 1 to 10,000.
    pub weight: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { min_iops: None, max_iops: None, max_bandwidth: None, weight: 100 }
    }
}

/// A disk in the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowId(u64);

/// A request in the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What a disk got so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowStats {
    /// Units of 8 KiB that were started.
    pub units: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Requests that wait now.
    pub waiting: usize,
    /// Time that requests waited here, all together.
    pub waited: Duration,
}

struct Waiting {
    ticket: Ticket,
    units: u64,
    bytes: u64,
    since: Duration,
}

struct Flow {
    limits: Limits,
    queue: VecDeque<Waiting>,
    min_iops: Option<Rate>,
    max_iops: Option<Rate>,
    max_bandwidth: Option<Rate>,
    credit: i64,
    last_start: Duration,
    stats: FlowStats,
}

struct Running {
    units: u64,
    since: Duration,
}

/// All disks that share a device.
pub struct Scheduler {
    balance: Balance,
    flows: BTreeMap<FlowId, Flow>,
    running: BTreeMap<Ticket, Running>,
    window: Window,
    in_flight: u64,
    /// Whose turn it is.
    turn: FlowId,
    next: u64,
}

impl Flow {
    /// When its first request may start, as far as its own limits go.
    fn ready_at(&self) -> Duration {
        let rates = [&self.max_iops, &self.max_bandwidth];
        rates.into_iter().flatten().map(Rate::ready_at).max().unwrap_or_default()
    }

    /// Since when it waits without any request of its being started.
    fn ignored_since(&self) -> Option<Duration> {
        self.queue.front().map(|request| request.since.max(self.last_start))
    }
}

impl Scheduler {
    /// No disks yet.
    pub fn new(balance: Balance) -> Self {
        let window = Window::new(balance.target_latency);
        let (flows, running) = (BTreeMap::new(), BTreeMap::new());
        Self { balance, flows, running, window, in_flight: 0, turn: FlowId(0), next: 1 }
    }

    /// Adds a disk.
    pub fn add(&mut self, limits: Limits) -> FlowId {
        let id = FlowId(self.number());
        let flow = Flow {
            limits: Limits::default(),
            queue: VecDeque::new(),
            min_iops: None,
            max_iops: None,
            max_bandwidth: None,
            credit: 0,
            last_start: Duration::ZERO,
            stats: FlowStats::default(),
        };
        self.flows.insert(id, flow);
        self.set_limits(id, limits);
        id
    }

    /// Changes what a disk may get, from now on.
    pub fn set_limits(&mut self, id: FlowId, limits: Limits) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.min_iops = limits.min_iops.filter(|rate| *rate > 0).map(Rate::new);
        flow.max_iops = limits.max_iops.map(Rate::new);
        flow.max_bandwidth = limits.max_bandwidth.map(Rate::new);
        flow.limits = limits;
    }

    /// Removes a disk and what waits for it.
    pub fn remove(&mut self, id: FlowId) {
        self.flows.remove(&id);
    }

    /// What a disk got so far.
    pub fn stats(&self, id: FlowId) -> FlowStats {
        let flow = self.flows.get(&id);
        flow.map(|flow| FlowStats { waiting: flow.queue.len(), ..flow.stats.clone() }).unwrap_or_default()
    }

    /// A request of `bytes` (0 for flushes) wants to start; [`Scheduler::start`] says when. Requests of one disk start in order.
    pub fn submit(&mut self, id: FlowId, bytes: u64, now: Duration) -> Ticket {
        let ticket = Ticket(self.number());
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.queue.push_back(Waiting { ticket, units: bytes.div_ceil(UNIT).max(1), bytes, since: now });
        }
        ticket
    }

    /// The next request that may start, if there is one. It counts as running until [`Scheduler::finish`].
    pub fn start(&mut self, now: Duration) -> Option<Ticket> {
        let id = self.choose(now)?;
        let flow = self.flows.get_mut(&id)?;
        let units = flow.queue.front()?.units;
        if self.balance.enabled && self.in_flight > 0 && self.in_flight + units > self.window.limit {
            self.window.note_full();
            return None;
        }
        let request = flow.queue.pop_front()?;
        for rate in [&mut flow.min_iops, &mut flow.max_iops].into_iter().flatten() {
            rate.take(units, now);
        }
        if let Some(rate) = &mut flow.max_bandwidth {
            rate.take(request.bytes, now);
        }
        flow.credit = flow.credit.saturating_sub(i64::try_from(units).unwrap_or(i64::MAX).saturating_mul(CREDIT));
        if flow.queue.is_empty() {
            // Nobody saves up turns while it has nothing to do.
            flow.credit = flow.credit.min(0);
        }
        flow.last_start = now;
        flow.stats.units += units;
        flow.stats.bytes += request.bytes;
        flow.stats.waited += now.saturating_sub(request.since);
        self.in_flight += units;
        self.running.insert(request.ticket, Running { units, since: now });
        Some(request.ticket)
    }

    /// A request ended, or is not wanted any more.
    pub fn finish(&mut self, ticket: Ticket, now: Duration) {
        if let Some(running) = self.running.remove(&ticket) {
            self.in_flight -= running.units;
            self.window.note_latency(now.saturating_sub(running.since), now);
            return;
        }
        for flow in self.flows.values_mut() {
            flow.queue.retain(|request| request.ticket != ticket);
        }
    }

    /// When [`Scheduler::start`] may have something again although nothing ended; None = only then.
    pub fn wake_at(&self, now: Duration) -> Option<Duration> {
        let waiting = self.flows.values().filter(|flow| !flow.queue.is_empty());
        waiting.map(Flow::ready_at).filter(|at| *at > now).min()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Whose request is next. The window does not matter here: who is next waits for it, and nobody overtakes.
    fn choose(&mut self, now: Duration) -> Option<FlowId> {
        let is_ready = |flow: &Flow| !flow.queue.is_empty() && flow.ready_at() <= now;
        let ready: Vec<FlowId> = self.flows.iter().filter(|(_, flow)| is_ready(flow)).map(|(id, _)| *id).collect();
        if ready.len() <= 1 {
            return ready.first().copied();
        }
        // The one that is furthest behind its reserve; but reserves must not starve the others.
        let ignored = |id: &FlowId| Some((self.flows[id].ignored_since()?, *id));
        if let Some((since, id)) = ready.iter().filter_map(ignored).min()
            && now.saturating_sub(since) > STARVED
        {
            return Some(id);
        }
        let behind = |id: &FlowId| Some((self.flows[id].min_iops.as_ref()?.ready_at(), *id));
        if let Some((_, id)) = ready.iter().filter_map(behind).filter(|(at, _)| *at <= now).min() {
            return Some(id);
        }
        Some(self.take_turn(&ready))
    }

    /// The turn stays where it is while there is credit; then the next one in order gets it.
    fn take_turn(&mut self, ready: &[FlowId]) -> FlowId {
        let turn = self.turn;
        let has_credit = |flows: &BTreeMap<FlowId, Flow>| {
            let mut order = ready.iter().filter(|id| **id >= turn).chain(ready.iter().filter(|id| **id < turn));
            order.find(|id| flows[id].credit > 0).copied()
        };
        let chosen = has_credit(&self.flows).or_else(|| {
            // As many rounds at once as it takes until somebody has credit.
            let quantum = |flow: &Flow, turn: i64| turn * i64::from(flow.limits.weight.clamp(1, 10_000));
            let turn = self.turn_units();
            let rounds = |id: &FlowId| (1 - self.flows[id].credit).div_euclid(quantum(&self.flows[id], turn)) + 1;
            let rounds = ready.iter().map(rounds).min().unwrap_or(1);
            for id in ready {
                if let Some(flow) = self.flows.get_mut(id) {
                    flow.credit = flow.credit.saturating_add(quantum(flow, turn).saturating_mul(rounds));
                }
            }
            has_credit(&self.flows)
        });
        self.turn = chosen.unwrap_or(ready[0]);
        self.turn
    }

    /// Units of a turn at weight 100: changing costs at most the allowed share, if it costs as much as one unit.
    fn turn_units(&self) -> i64 {
        (1.0 / self.balance.allowed_overhead.clamp(0.001, 1.0)).ceil() as i64
    }
}
