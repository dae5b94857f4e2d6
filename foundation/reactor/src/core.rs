//! What the handles and both loops share: the state under one lock, and how one callback is run.

use crate::Time;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::timer_queue::TimerQueue;
use crate::watch::{self, Interest, Readiness};
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::thread::ThreadId;

type Task = Box<dyn FnOnce() + Send>;

/// epoll data of the descriptors that only wake the loop; watches count from above.
const WAKE: u64 = 0;
const TIMER: u64 = 1;

/// How many descriptors one turn of the loop serves; the others are served in the next one.
const EVENTS_PER_TURN: usize = 64;

pub(crate) struct Core {
    pub clock: Clock,
    pub entropy: Entropy,
    pub state: Mutex<State>,
    /// Told when a callback returned and somebody waits for that.
    callback_done: Condvar,
    pub epoll: OwnedFd,
    wake: OwnedFd,
    /// Fires at `State::programmed`. The virtual reactor has it too and never sets it.
    timer: OwnedFd,
}

pub(crate) struct State {
    pub timers: TimerQueue,
    pub watches: HashMap<u64, WatchEntry>,
    pub last_watch: u64,
    posted: VecDeque<Task>,
    /// The loop is in (or about to enter) its wait, so whoever adds work has to wake it.
    asleep: bool,
    /// What the timerfd is set to.
    programmed: Option<Time>,
    running: Option<(Running, ThreadId)>,
    waiters: usize,
    pub stopped: bool,
}

pub(crate) struct WatchEntry {
    pub fd: OwnedFd,
    pub interest: Interest,
    /// Absent while it runs.
    pub callback: Option<watch::Callback>,
}

/// Which callback is running.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Running {
    Timer,
    Watch(u64),
}

impl Core {
    pub fn new(clock: Clock, entropy: Entropy) -> io::Result<Core> {
        let core = Core {
            clock,
            entropy,
            state: Mutex::new(State {
                timers: TimerQueue::default(),
                watches: HashMap::new(),
                last_watch: TIMER,
                posted: VecDeque::new(),
                asleep: false,
                programmed: None,
                running: None,
                waiters: 0,
                stopped: false,
            }),
            callback_done: Condvar::new(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            timer: timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?,
        };
        // Edge-triggered: these only end the wait, so nobody has to read them empty.
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(&core.epoll, &core.wake, EventData::new_u64(WAKE), edge)?;
        epoll::add(&core.epoll, &core.timer, EventData::new_u64(TIMER), edge)?;
        Ok(core)
    }

    pub fn post(&self, task: Task) {
        let mut state = self.state.lock();
        if state.stopped {
            // Not under the lock: what the task captured may own timers.
            drop(state);
            return drop(task);
        }
        state.posted.push_back(task);
        self.wake(&mut state);
    }

    /// Ends the loop's wait, if it is in one.
    pub fn wake(&self, state: &mut State) {
        if std::mem::take(&mut state.asleep) {
            // Fails only when the counter is full, and then the loop is awake anyway.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    /// A timer was set to `at`: makes a sleeping loop wake up by then. Later deadlines than the programmed one cost no system
    /// call: the loop looks again when it wakes.
    pub fn deadline_changed(&self, state: &mut State, at: Time) {
        if state.asleep && state.programmed.is_none_or(|programmed| at < programmed) {
            self.program(state);
        }
    }

    /// Sets the timerfd to the next deadline; a paused or virtual clock has none.
    fn program(&self, state: &mut State) {
        let running = matches!(self.clock, Clock::Host { .. }) && !self.clock.is_paused();
        let next = state.timers.next_deadline().filter(|_| running);
        if next == state.programmed {
            return;
        }
        let nanos = next.map_or(0, |at| self.clock.monotonic_at(at));
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: nanos / 1_000_000_000, tv_nsec: nanos % 1_000_000_000 };
        let spec = Itimerspec { it_interval: zero, it_value: value };
        // The descriptor and the value are valid by construction, so this cannot fail.
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec).expect("timerfd_settime");
        state.programmed = next;
    }

    /// Freezes VM time and waits until no timer callback runs (unless called from one).
    pub fn pause(&self) {
        let state = self.state.lock();
        self.clock.pause();
        self.wait_while_running(state, Running::Timer);
    }

    /// Lets VM time continue from where it was frozen.
    pub fn resume(&self) {
        let mut state = self.state.lock();
        self.clock.resume();
        self.wake(&mut state);
    }

    /// Waits until `callback` has returned, unless this is the thread that runs it.
    pub fn wait_while_running(&self, mut state: MutexGuard<'_, State>, callback: Running) {
        let here = std::thread::current().id();
        while state.running.is_some_and(|(running, thread)| running == callback && thread != here) {
            state.waiters += 1;
            self.callback_done.wait(&mut state);
            state.waiters -= 1;
        }
    }

    /// Marks a callback as running until the guard is dropped, also by a panic.
    fn enter(&self, state: &mut State, callback: Running) -> RunningGuard<'_> {
        state.running = Some((callback, std::thread::current().id()));
        RunningGuard { core: self }
    }

    /// One turn: waits for descriptors (not when there is work, and at most `timeout`), then calls the watches that are ready, in
    /// the order of their creation. Timers and tasks are left to the caller. Returns how many watches were called.
    pub fn serve_fds(&self, timeout: Option<Timespec>) -> usize {
        let mut timeout = timeout;
        {
            let mut state = self.state.lock();
            let now = self.clock.now();
            let due = !self.clock.is_paused() && state.timers.next_deadline().is_some_and(|at| at <= now);
            if due || state.stopped || !state.posted.is_empty() {
                timeout = Some(Timespec { tv_sec: 0, tv_nsec: 0 });
            } else {
                self.program(&mut state);
                state.asleep = true;
            }
        }
        let mut events = Vec::with_capacity(EVENTS_PER_TURN);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("epoll_wait failed: {error}"),
        }
        let mut ready: Vec<(u64, EventFlags)> = events.iter().map(|event| (event.data.u64(), event.flags)).collect();
        ready.sort_unstable_by_key(|(id, _)| *id);
        {
            let mut state = self.state.lock();
            state.asleep = false;
            if ready.iter().any(|(id, _)| *id == TIMER) {
                state.programmed = None;
            }
        }
        ready.into_iter().filter(|(id, flags)| *id > TIMER && self.call_watch(*id, *flags)).count()
    }

    /// False when the watch was dropped, put to sleep or already served meanwhile.
    fn call_watch(&self, id: u64, flags: EventFlags) -> bool {
        let mut state = self.state.lock();
        let Some(entry) = state.watches.get_mut(&id) else { return false };
        let Some(readiness) = Readiness::new(flags, entry.interest) else { return false };
        let Some(mut callback) = entry.callback.take() else { return false };
        let running = self.enter(&mut state, Running::Watch(id));
        drop(state);
        callback(readiness);
        let mut state = self.state.lock();
        let left = match state.watches.get_mut(&id) {
            Some(entry) => {
                entry.callback = Some(callback);
                None
            }
            None => Some(callback),
        };
        drop(state);
        // A watch that was dropped by its own callback; its captures go before anybody sees it as ended.
        drop(left);
        drop(running);
        true
    }

    /// Fires the first timer that is due at the clock's time. False when there is none, or time is paused.
    pub fn fire_one_timer(&self) -> bool {
        let mut state = self.state.lock();
        if self.clock.is_paused() {
            return false;
        }
        let now = self.clock.now();
        let Some((key, callback)) = state.timers.pop_due(now) else { return false };
        // Only a stopped reactor's timers have none.
        let Some(mut callback) = callback else { return true };
        let running = self.enter(&mut state, Running::Timer);
        drop(state);
        callback(now);
        let left = self.state.lock().timers.give_back(key, callback);
        drop(left);
        drop(running);
        true
    }

    /// Runs the tasks posted so far; tasks that they post are left for the next call. Returns how many ran.
    pub fn run_posted(&self) -> usize {
        let tasks = std::mem::take(&mut self.state.lock().posted);
        let count = tasks.len();
        tasks.into_iter().for_each(|task| task());
        count
    }

    /// Ends everything: no callback runs afterwards, and what they captured is dropped.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        let timers = state.timers.take_callbacks();
        let tasks = std::mem::take(&mut state.posted);
        let watches = std::mem::take(&mut state.watches);
        drop(state);
        for entry in watches.values().filter(|entry| entry.interest != Interest::NONE) {
            let _ = epoll::delete(&self.epoll, &entry.fd);
        }
        drop((timers, tasks, watches));
    }
}

struct RunningGuard<'a> {
    core: &'a Core,
}

impl Drop for RunningGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.core.state.lock();
        state.running = None;
        if state.waiters > 0 {
            self.core.callback_done.notify_all();
        }
    }
}
