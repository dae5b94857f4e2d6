//! The deterministic twin against a model: timers as a sorted list.

use bulkhead_reactor::{Interest, Reactor, Time, Timer, VirtualReactor};
use parking_lot::Mutex;
use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};
use std::sync::Arc;
use std::time::Duration;

fn start() -> (VirtualReactor, Reactor) {
    VirtualReactor::new(Time::ZERO, 1).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Create { repeat: u64 },
    Set { timer: usize, at: u64 },
    Cancel { timer: usize },
    Drop { timer: usize },
    Advance { by: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0u64..4).prop_map(|repeat| Step::Create { repeat: repeat * 3 }),
        6 => (0usize..8, 0u64..60).prop_map(|(timer, at)| Step::Set { timer, at }),
        2 => (0usize..8).prop_map(|timer| Step::Cancel { timer }),
        1 => (0usize..8).prop_map(|timer| Step::Drop { timer }),
        2 => (0u64..20).prop_map(|by| Step::Advance { by }),
    ]
}

/// The model: name (creation order), repeat interval (0 = one-shot), deadline.
#[derive(Default)]
struct Model {
    now: u64,
    timers: Vec<(usize, u64, Option<u64>)>,
    fired: Vec<(usize, u64)>,
}

impl Model {
    fn advance(&mut self, at: u64) {
        loop {
            let due = self.timers.iter_mut().filter(|timer| timer.2.is_some_and(|deadline| deadline <= at));
            let Some(first) = due.min_by_key(|timer| (timer.2, timer.0)) else { break };
            self.now = self.now.max(first.2.unwrap());
            self.fired.push((first.0, self.now));
            first.2 = (first.1 > 0).then_some(self.now + first.1);
        }
        self.now = self.now.max(at);
    }
}

type Shared = Arc<Mutex<Option<Timer>>>;

fn periodic(reactor: &Reactor, name: usize, repeat: u64, fired: &Arc<Mutex<Vec<(usize, u64)>>>) -> Shared {
    let shared: Shared = Arc::default();
    let (own, fired) = (Arc::downgrade(&shared), fired.clone());
    let timer = reactor.timer(move |now| {
        fired.lock().push((name, now.as_nanos()));
        if repeat > 0 {
            own.upgrade().unwrap().lock().as_ref().unwrap().set(now + Duration::from_nanos(repeat));
        }
    });
    *shared.lock() = Some(timer);
    shared
}

proptest! {
    #[test]
    fn timers_match_a_sorted_list(steps in proptest::collection::vec(step(), 1..120)) {
        let (mut driver, reactor) = start();
        let fired = Arc::new(Mutex::new(Vec::new()));
        let mut timers: Vec<Shared> = Vec::new();
        let (mut model, mut names) = (Model::default(), 0);
        for step in steps {
            match step {
                Step::Create { repeat } => {
                    timers.push(periodic(&reactor, names, repeat, &fired));
                    model.timers.push((names, repeat, None));
                    names += 1;
                }
                Step::Set { timer, at } if timer < timers.len() => {
                    timers[timer].lock().as_ref().unwrap().set(Time::from_nanos(at));
                    model.timers[timer].2 = Some(at);
                }
                Step::Cancel { timer } if timer < timers.len() => {
                    timers[timer].lock().as_ref().unwrap().cancel();
                    model.timers[timer].2 = None;
                }
                Step::Drop { timer } if timer < timers.len() => {
                    timers.remove(timer);
                    model.timers.remove(timer);
                }
                Step::Advance { by } => {
                    let at = model.now + by;
                    driver.advance_to(Time::from_nanos(at));
                    model.advance(at);
                }
                _ => {}
            }
            prop_assert_eq!(&*fired.lock(), &model.fired);
            prop_assert_eq!(reactor.now().as_nanos(), model.now);
            let next = model.timers.iter().filter_map(|timer| timer.2).min();
            prop_assert_eq!(driver.next_deadline().map(Time::as_nanos), next);
            for (timer, expected) in timers.iter().zip(&model.timers) {
                prop_assert_eq!(timer.lock().as_ref().unwrap().deadline().map(Time::as_nanos), expected.2);
            }
        }
    }

    #[test]
    fn time_arithmetic_saturates(nanos: u64, seconds: u64) {
        let (time, duration) = (Time::from_nanos(nanos), Duration::from_secs(seconds));
        let total = u128::from(nanos) + duration.as_nanos();
        prop_assert_eq!((time + duration).as_nanos(), u64::try_from(total).unwrap_or(u64::MAX));
        prop_assert_eq!((time - duration).as_nanos(), u128::from(nanos).saturating_sub(duration.as_nanos()) as u64);
        prop_assert_eq!(Time::ZERO - time, Duration::ZERO);
        prop_assert_eq!((time - Time::ZERO).as_nanos(), u128::from(nanos));
    }
}

#[test]
fn time_moves_only_when_told_and_never_back() {
    let (mut driver, reactor) = VirtualReactor::new(Time::from_nanos(500), 1).unwrap();
    assert_eq!(reactor.now(), Time::from_nanos(500));
    driver.advance_to(Time::from_nanos(100));
    assert_eq!(reactor.now(), Time::from_nanos(500));
}

#[test]
fn posted_tasks_run_between_timers() {
    let (mut driver, reactor) = start();
    let log = Arc::new(Mutex::new(Vec::new()));
    let (at_timer, handle) = (log.clone(), reactor.clone());
    let timer = reactor.timer(move |_| {
        at_timer.lock().push("timer");
        let log = at_timer.clone();
        handle.post(move || log.lock().push("task of timer"));
    });
    let late = log.clone();
    let second = reactor.timer(move |_| late.lock().push("second timer"));
    let early = log.clone();
    reactor.post(move || early.lock().push("task"));
    timer.set(Time::from_nanos(5));
    second.set(Time::from_nanos(6));
    driver.advance_to(Time::from_nanos(6));
    assert_eq!(*log.lock(), ["task", "timer", "task of timer", "second timer"]);
}

#[test]
fn a_callback_may_drop_and_create_timers() {
    let (mut driver, reactor) = start();
    let slot: Shared = Arc::default();
    let (own, handle, log) = (slot.clone(), reactor.clone(), Arc::new(Mutex::new(Vec::new())));
    let inner = log.clone();
    let first = reactor.timer(move |_| {
        // Takes the slot of the timer that is running now.
        let old = own.lock().take();
        drop(old);
        let log = inner.clone();
        let new = handle.timer(move |now| log.lock().push(now.as_nanos()));
        new.set(Time::from_nanos(9));
        *own.lock() = Some(new);
    });
    first.set(Time::from_nanos(3));
    *slot.lock() = Some(first);
    driver.advance_to(Time::from_nanos(20));
    assert_eq!(*log.lock(), [9]);
}

#[test]
fn descriptors_are_served_only_when_polled_and_in_order_of_creation() {
    let (mut driver, reactor) = start();
    let log = Arc::new(Mutex::new(Vec::new()));
    let mut watches = Vec::new();
    let mut events = Vec::new();
    for name in 0..5 {
        let fd = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let (log, source) = (log.clone(), fd.clone());
        let read = move |_| {
            rustix::io::read(&source, &mut [0; 8]).unwrap();
            log.lock().push(name);
        };
        watches.push(reactor.watch(&fd, Interest::READ, read).unwrap());
        events.push(fd);
    }
    for fd in events.iter().rev() {
        rustix::io::write(fd, &1u64.to_ne_bytes()).unwrap();
    }
    driver.advance_to(Time::from_nanos(1000));
    assert!(log.lock().is_empty());
    assert_eq!(driver.poll_fds(), 5);
    assert_eq!(*log.lock(), [0, 1, 2, 3, 4]);
    assert_eq!(driver.poll_fds(), 0);
}

#[test]
fn waiting_ends_with_a_task_from_another_thread() {
    let (mut driver, reactor) = start();
    let done = Arc::new(Mutex::new(false));
    let flag = done.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| reactor.post(move || *flag.lock() = true));
        while !*done.lock() {
            driver.wait_fds(Some(Duration::MAX));
        }
    });
}

#[test]
fn entropy_repeats_per_seed() {
    let bytes = |seed, split: usize| {
        let (_driver, reactor) = VirtualReactor::new(Time::ZERO, seed).unwrap();
        let mut bytes = [0; 40];
        reactor.entropy(&mut bytes[..split]);
        reactor.entropy(&mut bytes[split..]);
        bytes
    };
    assert_eq!(bytes(7, 16), bytes(7, 16));
    assert_ne!(bytes(7, 16), bytes(8, 16));
}
