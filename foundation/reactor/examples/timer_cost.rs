//! What setting a timer costs: devices re-arm theirs on many register writes, so no system call may hide there.

use bulkhead_reactor::{HostReactor, Time, Timer};
use std::time::Duration;

const ROUNDS: u32 = 200_000;

/// Nanoseconds per round of the best of seven runs: others may use the machine meanwhile.
fn cost(mut round: impl FnMut(u32)) -> u64 {
    let (_host, clock) = HostReactor::start(Time::ZERO).unwrap();
    let runs = (0..7).map(|_| {
        let start = clock.now();
        (0..ROUNDS).for_each(&mut round);
        (clock.now() - start) / ROUNDS
    });
    runs.min().unwrap().as_nanos() as u64
}

fn main() {
    let (_host, reactor) = HostReactor::start(Time::ZERO).unwrap();
    let far = reactor.now() + Duration::from_secs(3600);
    // A machine's worth of armed timers.
    let timers: Vec<Timer> = (0..32).map(|_| reactor.timer(|_| {})).collect();
    timers.iter().enumerate().for_each(|(index, timer)| timer.set(far + Duration::from_nanos(index as u64)));
    let set = cost(|round| timers[(round % 32) as usize].set(far + Duration::from_nanos(u64::from(round * 7 % 1024))));
    let set_and_cancel = cost(|round| {
        let timer = &timers[(round % 32) as usize];
        timer.set(far + Duration::from_nanos(u64::from(round)));
        timer.cancel();
    });
    let now = cost(|_| {
        reactor.now();
    });
    println!("set {set} ns, set and cancel {set_and_cancel} ns, now {now} ns");
}
