//! Several threads against one loop: no lost wake-up, no time that goes back.

use bulkhead_reactor::{HostReactor, Reactor, Time};
use crossbeam_channel::unbounded;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// Sets a timer again and again and waits for each call; now and then it sets a later time first, or posts a task.
fn ping_pong(reactor: &Reactor, seed: u64, rounds: u32) {
    let (sender, receiver) = unbounded();
    let timer = reactor.timer(move |now| sender.send(now).unwrap());
    let mut random = seed;
    for round in 0..rounds {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let deadline = reactor.now() + Duration::from_nanos((random >> 33) % 60_000);
        match round % 4 {
            0 => timer.set(deadline + Duration::from_secs(3600)),
            1 => reactor.post(|| {}),
            2 => {
                timer.set(Time::MAX);
                timer.cancel();
            }
            _ => {}
        }
        timer.set(deadline);
        let fired = receiver.recv_timeout(PATIENCE).unwrap();
        assert!(fired >= deadline, "fired {:?} early", deadline - fired);
        assert!(receiver.is_empty() && timer.deadline().is_none());
    }
}

#[test]
fn no_wake_up_is_lost() {
    let (_host, reactor) = HostReactor::start(Time::ZERO).unwrap();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let reactor = &reactor;
            scope.spawn(move || ping_pong(reactor, seed, 1500));
        }
    });
}

#[test]
fn pausing_loses_no_timer_and_time_never_goes_back() {
    let (host, reactor) = HostReactor::start(Time::ZERO).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                host.pause();
                let frozen = reactor.now();
                std::thread::yield_now();
                assert_eq!(reactor.now(), frozen);
                host.resume();
                std::thread::yield_now();
            }
        });
        scope.spawn(|| {
            let mut last = Time::ZERO;
            while !done.load(Ordering::SeqCst) {
                let now = reactor.now();
                assert!(now >= last, "{now} after {last}");
                last = now;
            }
        });
        ping_pong(&reactor, 99, 300);
        done.store(true, Ordering::SeqCst);
    });
}
