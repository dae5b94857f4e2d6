//! The scheduler over a simulated device: one request at a time, a fixed cost and a cost per byte, as a disk under load has.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use bulkhead_qos::{Balance, FlowId, Limits, Scheduler, Ticket};

/// Somebody with a number of requests of one size under way at all times.
#[derive(Clone)]
struct Load {
    bytes: u64,
    depth: usize,
    limits: Limits,
    /// Loads with one number share a scheduler: they are disks of one worker.
    worker: usize,
}

#[derive(Default, Clone)]
struct Outcome {
    requests: u64,
    bytes: u64,
    latencies: Vec<Duration>,
}

impl Outcome {
    fn percentile_99(&self) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() * 99 / 100).copied().unwrap_or_default()
    }
}

/// What a disk with heads takes for a request.
fn service(bytes: u64) -> Duration {
    Duration::from_micros(2000) + Duration::from_nanos(bytes * 1_000_000_000 / (150 << 20))
}

/// What a fast device takes.
fn fast_service(bytes: u64) -> Duration {
    Duration::from_micros(20) + Duration::from_nanos(bytes * 1_000_000_000 / (2 << 30))
}

struct Simulation {
    schedulers: Vec<Scheduler>,
    loads: Vec<Load>,
    flows: Vec<FlowId>,
    cost: fn(u64) -> Duration,
    now: Duration,
    /// (worker, ticket) → (load, submitted).
    requests: BTreeMap<(usize, Ticket), (usize, Duration)>,
    device: VecDeque<(usize, Ticket)>,
    busy_until: Option<Duration>,
    outcomes: Vec<Outcome>,
    wakes: BinaryHeap<Reverse<Duration>>,
}

impl Simulation {
    fn submit(&mut self, load: usize) {
        let Load { worker, bytes, .. } = self.loads[load];
        let ticket = self.schedulers[worker].submit(self.flows[load], bytes, self.now);
        self.requests.insert((worker, ticket), (load, self.now));
    }

    fn pump(&mut self) {
        for worker in 0..self.schedulers.len() {
            while let Some(ticket) = self.schedulers[worker].start(self.now) {
                self.device.push_back((worker, ticket));
            }
            self.wakes.extend(self.schedulers[worker].wake_at(self.now).map(Reverse));
        }
        if self.busy_until.is_none()
            && let Some(request) = self.device.front()
        {
            let bytes = self.loads[self.requests[request].0].bytes;
            self.busy_until = Some(self.now + (self.cost)(bytes));
        }
    }

    /// What begins after `warm` counts.
    fn run(mut self, warm: Duration, end: Duration) -> Vec<Outcome> {
        for load in 0..self.loads.len() {
            (0..self.loads[load].depth).for_each(|_| self.submit(load));
        }
        self.pump();
        while self.now < end {
            while self.wakes.peek().is_some_and(|Reverse(at)| *at <= self.now) {
                self.wakes.pop();
            }
            let wake = self.wakes.peek().map(|Reverse(at)| *at);
            let Some(next) = self.busy_until.into_iter().chain(wake).min() else { panic!("everybody waits") };
            self.now = next;
            if self.busy_until == Some(next) {
                self.busy_until = None;
                let (worker, ticket) = self.device.pop_front().expect("it was running");
                let (load, since) = self.requests.remove(&(worker, ticket)).expect("it was running");
                self.schedulers[worker].finish(ticket, self.now);
                if self.now >= warm {
                    let outcome = &mut self.outcomes[load];
                    outcome.requests += 1;
                    outcome.bytes += self.loads[load].bytes;
                    outcome.latencies.push(self.now - since);
                }
                self.submit(load);
            }
            self.pump();
        }
        self.outcomes
    }
}

fn simulate(loads: &[Load], balance: &Balance, cost: fn(u64) -> Duration, seconds: u64) -> Vec<Outcome> {
    let workers = loads.iter().map(|load| load.worker).max().unwrap_or(0) + 1;
    let mut schedulers: Vec<Scheduler> = (0..workers).map(|_| Scheduler::new(balance.clone())).collect();
    let flows = loads.iter().map(|load| schedulers[load.worker].add(load.limits.clone())).collect();
    let simulation = Simulation {
        schedulers,
        loads: loads.to_vec(),
        flows,
        cost,
        now: Duration::from_secs(100),
        requests: BTreeMap::new(),
        device: VecDeque::new(),
        busy_until: None,
        outcomes: vec![Outcome::default(); loads.len()],
        wakes: BinaryHeap::new(),
    };
    // The window needs some seconds to find its size.
    simulation.run(Duration::from_secs(110), Duration::from_secs(110 + seconds))
}

fn load(bytes: u64, depth: usize, worker: usize) -> Load {
    Load { bytes, depth, limits: Limits::default(), worker }
}

fn off() -> Balance {
    Balance { enabled: false, ..Balance::default() }
}

fn within(value: f64, wanted: f64, share: f64) {
    assert!((value - wanted).abs() <= wanted * share, "{value} is not within {share} of {wanted}");
}

#[test]
fn defaults_are_those_of_the_original() {
    let balance = Balance::default();
    assert!(balance.enabled && balance.target_latency == Duration::from_millis(83) && balance.allowed_overhead == 0.08);
}

#[test]
fn limits_are_kept_within_two_percent() {
    let mut other = load(4096, 4, 0);
    other.limits.max_iops = Some(1000);
    for bytes in [4 << 10, 9 << 10, 1 << 20] {
        let mut limited = load(bytes, 32, 0);
        limited.limits.max_iops = Some(500);
        let outcome = &simulate(&[limited, other.clone()], &Balance::default(), fast_service, 20)[0];
        // 9 KiB are two, as the original counts.
        within((outcome.requests * bytes.div_ceil(8 << 10)) as f64 / 20.0, 500.0, 0.02);
        let mut limited = load(bytes, 32, 0);
        limited.limits.max_bandwidth = Some(50 << 20);
        let outcome = &simulate(&[limited, other.clone()], &Balance::default(), fast_service, 20)[0];
        within(outcome.bytes as f64 / 20.0, f64::from(50 << 20), 0.02);
    }
}

#[test]
fn four_equal_disks_get_a_quarter_each_and_weights_count() {
    let greedy: Vec<Load> = [64 << 10, 64 << 10, 256 << 10, 4 << 10].map(|bytes| load(bytes, 64, 0)).to_vec();
    let outcomes = simulate(
        &[greedy[0].clone(), greedy[0].clone(), greedy[0].clone(), greedy[0].clone()],
        &Balance::default(),
        service,
        60,
    );
    let total: u64 = outcomes.iter().map(|outcome| outcome.bytes).sum();
    for outcome in &outcomes {
        within(outcome.bytes as f64 / total as f64, 0.25, 0.05);
    }
    let mut heavy = load(64 << 10, 64, 0);
    heavy.limits.weight = 300;
    let outcomes = simulate(&[heavy, greedy[1].clone()], &Balance::default(), service, 60);
    within(outcomes[0].bytes as f64 / outcomes[1].bytes as f64, 3.0, 0.05);
}

#[test]
fn a_reserve_is_kept_against_everybody() {
    let mut reserved = load(8 << 10, 16, 0);
    reserved.limits.min_iops = Some(200);
    // The device does about 480 of these per second.
    let outcomes = simulate(
        &[reserved, load(8 << 10, 64, 0), load(8 << 10, 64, 0), load(8 << 10, 64, 0)],
        &Balance::default(),
        service,
        30,
    );
    let rate = outcomes[0].requests as f64 / 30.0;
    assert!(rate >= 200.0 * 0.98, "{rate}");
    assert!(outcomes[1].requests > 0 && outcomes[3].requests > 0);
}

/// The two of the original's promise: somebody with deep queues of large requests, and somebody who asks one by one.
#[test]
fn a_greedy_neighbour_costs_the_small_one_no_more_than_the_target() {
    for workers in [1, 2] {
        let loads = [load(256 << 10, 256, 0), load(4 << 10, 1, workers - 1)];
        let balanced = simulate(&loads, &Balance::default(), service, 60);
        let free = simulate(&loads, &off(), service, 60);
        let (with, without) = (balanced[1].percentile_99(), free[1].percentile_99());
        assert!(without > Duration::from_millis(700), "without the balancer it is starved: {without:?}");
        assert!(with <= Duration::from_millis(2 * 83), "{workers} workers: {with:?}");
        let (all, all_free) = (balanced[0].bytes + balanced[1].bytes, free[0].bytes + free[1].bytes);
        assert!(all as f64 >= all_free as f64 * 0.92, "balancing costs more than 8 %: {all} of {all_free}");
    }
}

/// Two workers know nothing of each other, and their windows meet.
#[test]
fn workers_that_do_not_talk_share_a_device_fairly() {
    let loads = [load(64 << 10, 256, 0), load(64 << 10, 32, 1)];
    let balanced = simulate(&loads, &Balance::default(), service, 120);
    let free = simulate(&loads, &off(), service, 120);
    let share = |outcomes: &[Outcome]| outcomes[1].bytes as f64 / outcomes[0].bytes as f64;
    assert!(share(&free) < 0.2, "without the balancer the deeper queue wins: {}", share(&free));
    assert!(share(&balanced) > 0.75, "{}", share(&balanced));
}

/// Nothing is lost, nothing runs twice, whatever the order.
#[test]
fn every_request_starts_once() {
    let mut scheduler = Scheduler::new(Balance::default());
    let flows: Vec<FlowId> = (0..3).map(|_| scheduler.add(Limits::default())).collect();
    let now = Duration::from_secs(1);
    let tickets: Vec<Ticket> = (0..300).map(|n| scheduler.submit(flows[n % 3], (n as u64) << 10, now)).collect();
    scheduler.finish(tickets[7], now);
    let mut started = Vec::new();
    while let Some(ticket) = scheduler.start(now) {
        started.push(ticket);
        scheduler.finish(ticket, now);
    }
    started.sort_unstable();
    let expected: Vec<Ticket> = tickets.iter().copied().filter(|ticket| *ticket != tickets[7]).collect();
    assert_eq!(started, expected);
    assert_eq!(
        scheduler.stats(flows[0]).units + scheduler.stats(flows[1]).units + scheduler.stats(flows[2]).units,
        (0..300u64).filter(|n| *n != 7).map(|n| (n << 10).div_ceil(8 << 10).max(1)).sum::<u64>()
    );
}
