//! The host reactor: a real thread, real descriptors, and no sleeps: every wait is on a channel.

use bulkhead_reactor::{HostReactor, Interest, Reactor, Time, Timer, Watch};
use crossbeam_channel::{Sender, bounded, unbounded};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(3600);
/// Fails the test instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(20);

fn start() -> (HostReactor, Reactor) {
    HostReactor::start(Time::ZERO).unwrap()
}

fn event() -> Arc<OwnedFd> {
    Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())
}

fn signal(fd: &OwnedFd) {
    rustix::io::write(fd, &1u64.to_ne_bytes()).unwrap();
}

fn drain(fd: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    rustix::io::read(fd, &mut count).unwrap();
    u64::from_ne_bytes(count)
}

/// Returns once the loop has gone through everything that was ready before.
fn settle(reactor: &Reactor) {
    for _ in 0..2 {
        let (sender, receiver) = bounded(1);
        reactor.post(move || sender.send(()).unwrap());
        receiver.recv_timeout(PATIENCE).unwrap();
    }
}

#[test]
fn time_starts_where_told_and_never_goes_back() {
    let start = Time::from_nanos(u64::MAX / 2);
    let (_host, reactor) = HostReactor::start(start).unwrap();
    let first = reactor.now();
    assert!(first >= start && first - start < PATIENCE);
    assert!(reactor.now() >= first);
}

#[test]
fn timers_fire_in_order_and_not_early() {
    let (_host, reactor) = start();
    let (sender, receiver) = unbounded();
    let base = reactor.now();
    let mut timers = Vec::new();
    for millis in [9u64, 3, 6, 0, 3] {
        let sender = sender.clone();
        let timer = reactor.timer(move |now| sender.send((millis, now)).unwrap());
        timer.set(base + Duration::from_millis(millis));
        timers.push(timer);
    }
    let fired: Vec<(u64, Time)> = (0..5).map(|_| receiver.recv_timeout(PATIENCE).unwrap()).collect();
    assert!(fired.iter().all(|(millis, now)| *now >= base + Duration::from_millis(*millis)));
    assert!(fired.is_sorted_by_key(|(_, now)| *now));
    assert!(timers.iter().all(|timer| timer.deadline().is_none()));
}

#[test]
fn past_deadlines_fire_at_once_on_the_loop_thread() {
    let (_host, reactor) = HostReactor::start(Time::from_nanos(1 << 40)).unwrap();
    let (sender, receiver) = bounded(1);
    let timer = reactor.timer(move |_| sender.send(std::thread::current().id()).unwrap());
    timer.set(Time::ZERO);
    assert_ne!(receiver.recv_timeout(PATIENCE).unwrap(), std::thread::current().id());
}

#[test]
fn a_timer_that_is_always_late_does_not_hold_up_others() {
    let (host, reactor) = start();
    let busy: Arc<Mutex<Option<Timer>>> = Arc::default();
    let again = Arc::downgrade(&busy);
    *busy.lock() = Some(reactor.timer(move |_| {
        if let Some(timer) =
            again.upgrade().as_deref().and_then(|timer| timer.try_lock()).as_deref().and_then(Option::as_ref)
        {
            timer.set(Time::ZERO);
        }
    }));
    let (fired, has_fired) = bounded(1);
    let other = reactor.timer(move |_| {
        let _ = fired.try_send(());
    });
    busy.lock().as_ref().unwrap().set(Time::ZERO);
    other.set(reactor.now() + Duration::from_millis(1));
    has_fired.recv_timeout(Duration::from_secs(10)).expect("the other timer fires");
    host.stop();
}

#[test]
fn an_earlier_deadline_wakes_a_sleeping_loop() {
    let (_host, reactor) = start();
    let (sender, receiver) = bounded(1);
    let timer = reactor.timer(move |_| sender.send(()).unwrap());
    timer.set(reactor.now() + LONG);
    settle(&reactor);
    timer.set(reactor.now() + Duration::from_millis(2));
    receiver.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_cancelled_timer_and_the_end_of_time_do_not_fire() {
    let (_host, reactor) = start();
    let (sender, receiver) = unbounded();
    let (first, second) = (sender.clone(), sender.clone());
    let cancelled = reactor.timer(move |_| first.send("cancelled").unwrap());
    let never = reactor.timer(move |_| second.send("never").unwrap());
    let last = reactor.timer(move |_| sender.send("last").unwrap());
    never.set(Time::MAX);
    cancelled.set(reactor.now() + Duration::from_millis(5));
    last.set(reactor.now() + Duration::from_millis(10));
    cancelled.cancel();
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), "last");
    settle(&reactor);
    assert!(receiver.try_recv().is_err());
    assert_eq!((cancelled.deadline(), never.deadline()), (None, Some(Time::MAX)));
}

/// Re-arms itself under a lock that other threads hold while they set the timer, as devices do.
#[test]
fn callbacks_rearm_under_their_devices_lock() {
    struct Device {
        timer: Option<Timer>,
        ticks: u32,
        done: Sender<()>,
    }
    let (_host, reactor) = start();
    let (done, finished) = bounded(1);
    let device = Arc::new(Mutex::new(Device { timer: None, ticks: 0, done }));
    let weak = Arc::downgrade(&device);
    let timer = reactor.timer(move |now| {
        let Some(device) = weak.upgrade() else { return };
        let mut device = device.lock();
        device.ticks += 1;
        if device.ticks < 1000 {
            device.timer.as_ref().unwrap().set(now + Duration::from_micros(10));
        } else {
            let _ = device.done.try_send(());
        }
    });
    device.lock().timer = Some(timer);
    loop {
        let device = device.lock();
        device.timer.as_ref().unwrap().set(reactor.now());
        drop(device);
        if finished.try_recv().is_ok() {
            return;
        }
        std::thread::yield_now();
    }
}

#[test]
fn watches_are_level_triggered_and_end_with_their_handle() {
    let (_host, reactor) = start();
    let fd = event();
    let (sender, receiver) = unbounded();
    let (source, mut left) = (fd.clone(), 3);
    let watch = reactor
        .watch(&fd, Interest::READ, move |readiness| {
            assert!(readiness.readable && !readiness.writable);
            left -= 1;
            if left == 0 {
                drain(&source);
            }
            sender.send(left).unwrap();
        })
        .unwrap();
    signal(&fd);
    let seen: Vec<i32> = (0..3).map(|_| receiver.recv_timeout(PATIENCE).unwrap()).collect();
    assert_eq!(seen, [2, 1, 0]);
    settle(&reactor);
    assert!(receiver.is_empty(), "called although drained");
    drop(watch);
    signal(&fd);
    settle(&reactor);
    assert!(receiver.recv_timeout(PATIENCE).is_err(), "the callback is gone, and with it the sender");
}

#[test]
fn a_watch_sleeps_without_interest_even_on_hangup() {
    let (_host, reactor) = start();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let (sender, receiver) = unbounded();
    let (counter, mut input) = (calls.clone(), ours.try_clone().unwrap());
    let watch = reactor
        .watch(&ours, Interest::READ, move |readiness| {
            counter.fetch_add(1, Ordering::SeqCst);
            let mut byte = [0];
            let count = input.read(&mut byte).unwrap();
            sender.send((readiness.hangup, count, byte[0])).unwrap();
        })
        .unwrap();
    theirs.write_all(b"a").unwrap();
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), (false, 1, b'a'));
    watch.set_interest(Interest::NONE).unwrap();
    theirs.write_all(b"b").unwrap();
    drop(theirs);
    settle(&reactor);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    watch.set_interest(Interest::READ).unwrap();
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), (true, 1, b'b'));
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap().1, 0, "end of file");
}

#[test]
fn write_interest_reports_room() {
    let (_host, reactor) = start();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let (sender, receiver) = unbounded();
    let watch = reactor.watch(&ours, Interest::WRITE, move |ready| sender.send(ready.writable).unwrap_or(())).unwrap();
    assert!(receiver.recv_timeout(PATIENCE).unwrap());
    watch.set_interest(Interest::READ).unwrap();
}

#[test]
fn a_watch_may_drop_itself() {
    let (_host, reactor) = start();
    let fd = event();
    let slot: Arc<Mutex<Option<Watch>>> = Arc::default();
    let (sender, receiver) = bounded(8);
    let own = slot.clone();
    let watch = reactor
        .watch(&fd, Interest::READ, move |_| {
            own.lock().take();
            sender.send(()).unwrap();
        })
        .unwrap();
    *slot.lock() = Some(watch);
    signal(&fd);
    receiver.recv_timeout(PATIENCE).unwrap();
    assert!(receiver.recv_timeout(PATIENCE).is_err(), "its captures are dropped after its only call");
}

#[test]
fn dropping_a_watch_waits_for_its_callback() {
    let (_host, reactor) = start();
    let fd = event();
    let (entered, started) = bounded(1);
    let (dropping, drop_begun) = bounded(1);
    let (dropped, drop_ended) = bounded::<()>(1);
    let (verdict, early) = bounded(1);
    let watch = reactor
        .watch(&fd, Interest::READ, move |_| {
            entered.send(()).unwrap();
            drop_begun.recv_timeout(PATIENCE).unwrap();
            // The drop must not end while this runs: give it the time to do so wrongly.
            verdict.send(drop_ended.recv_timeout(Duration::from_millis(50)).is_ok()).unwrap();
        })
        .unwrap();
    signal(&fd);
    started.recv_timeout(PATIENCE).unwrap();
    dropping.send(()).unwrap();
    drop(watch);
    // Nobody listens any more when all is well: the callback is gone.
    let _ = dropped.send(());
    assert!(!early.recv_timeout(PATIENCE).unwrap());
}

#[test]
fn posted_tasks_run_in_order() {
    let (host, reactor) = start();
    let (sender, receiver) = unbounded();
    for number in 0..1000 {
        let sender = sender.clone();
        reactor.post(move || sender.send(number).unwrap());
    }
    let seen: Vec<i32> = (0..1000).map(|_| receiver.recv_timeout(PATIENCE).unwrap()).collect();
    assert!(seen.iter().copied().eq(0..1000));
    host.stop();
    reactor.post(move || sender.send(1000).unwrap());
    assert!(receiver.recv().is_err(), "a stopped reactor drops tasks");
}

#[test]
fn paused_time_stands_still_and_continues() {
    let (host, reactor) = HostReactor::start_paused(Time::from_nanos(77)).unwrap();
    assert_eq!(reactor.now(), Time::from_nanos(77));
    let fd = event();
    let (sender, receiver) = unbounded();
    let (from_fd, source) = (sender.clone(), fd.clone());
    let _watch = reactor
        .watch(&fd, Interest::READ, move |_| {
            drain(&source);
            from_fd.send("fd").unwrap();
        })
        .unwrap();
    let timer = reactor.timer(move |_| sender.send("timer").unwrap());
    timer.set(Time::ZERO);
    settle(&reactor);
    signal(&fd);
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), "fd");
    settle(&reactor);
    assert!(receiver.is_empty());
    host.resume();
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), "timer");
    host.pause();
    let frozen = reactor.now();
    timer.set(frozen + Duration::from_millis(1));
    settle(&reactor);
    assert_eq!(reactor.now(), frozen);
    host.resume();
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), "timer");
    assert!(reactor.now() - frozen < PATIENCE);
}

#[test]
fn stopping_drops_what_callbacks_hold() {
    let (host, reactor) = start();
    let held = Arc::new(());
    let fd = event();
    let (in_timer, in_watch) = (held.clone(), held.clone());
    let timer = reactor.timer(move |_| drop(in_timer.clone()));
    let watch = reactor.watch(&fd, Interest::READ, move |_| drop(in_watch.clone())).unwrap();
    host.stop();
    assert_eq!(Arc::strong_count(&held), 1);
    timer.set(Time::ZERO);
    watch.set_interest(Interest::WRITE).unwrap();
}

#[test]
fn a_panicking_callback_ends_the_loop_and_shows_up_in_stop() {
    let (host, reactor) = start();
    let (sender, receiver) = bounded::<()>(1);
    let _other = reactor.timer(move |_| drop(sender.clone()));
    let timer = reactor.timer(|_| panic!("a broken device"));
    timer.set(Time::ZERO);
    assert!(receiver.recv().is_err(), "waiters notice");
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| host.stop())).unwrap_err();
    assert_eq!(*panic.downcast_ref::<&str>().unwrap(), "a broken device");
}

#[test]
fn entropy_differs() {
    let (_host, reactor) = start();
    let (mut first, mut second) = ([0; 300], [0; 300]);
    reactor.entropy(&mut first);
    reactor.entropy(&mut second);
    assert_ne!(first, second);
}
