//! What a run took.

use bulkhead_engine::{EngineKind, VpStats};
use bulkhead_machine::Machine;
use bulkhead_reactor::Reactor;
use bulkhead_worker_protocol::Stats;
use rustix::time::{ClockId, clock_gettime};

/// The clocks at the start of a run.
pub struct Meter {
    wall: f64,
    engine: EngineKind,
    resets: u64,
}

impl Meter {
    /// Starts measuring.
    pub fn start(engine: EngineKind) -> Meter {
        Meter { wall: seconds(ClockId::Monotonic), engine, resets: 0 }
    }

    /// The guest was reset.
    pub fn count_reset(&mut self) {
        self.resets += 1;
    }

    /// Everything so far.
    pub fn read(&self, machine: &Machine, vps: &[VpStats], reactor: &Reactor) -> Stats {
        let mut stats = Stats {
            engine: self.engine.name().into(),
            cpu_model: machine.cpu_model().name(),
            wall_seconds: seconds(ClockId::Monotonic) - self.wall,
            cpu_seconds: seconds(ClockId::ProcessCPUTime),
            vm_seconds: reactor.now().as_nanos() as f64 / 1e9,
            guest_instructions: vps.iter().map(|vp| vp.instructions).sum(),
            peak_rss_bytes: peak_rss(),
            resets: self.resets,
            ..Stats::default()
        };
        for (name, count) in machine.counters().iter().flat_map(|counters| counters.counts()) {
            *stats.exits.entry(name.into()).or_default() += count;
        }
        for (name, count) in vps.iter().flat_map(|vp| &vp.events) {
            *stats.engine_events.entry((*name).into()).or_default() += count;
        }
        stats
    }
}

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Largest resident set, from the process's own status; 0 if that cannot be read (no /proc).
fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0) << 10
}
