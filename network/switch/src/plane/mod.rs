//! The data plane of one virtual switch: a thread that moves frames between its ports.
//!
//! The thread owns everything here; the control side sends it tasks. It sleeps in epoll when no port has anything to send.

mod capture;
mod deliver;
mod end;
mod turn;

pub use capture::Captured;
pub use end::Link;

use bulkhead_linux::EventFd;
use bulkhead_packets::MAX_FRAME;
use bulkhead_port::{AttachOptions, PortRing, RingError};
use bulkhead_switch_core::{Egress, Policy, PolicyError, PortId, Schedule, Switch};
use bulkhead_uplinks::Uplink;
use crossbeam_channel::{Receiver, Sender, unbounded};
use end::{End, Wire};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

/// The token of the task queue; ports have their index.
const TASKS: u64 = u64::MAX;
/// How often descriptors are looked at while there is work.
const POLL_EVERY: u64 = 50_000;
/// How often teams look at their links.
const TEND_EVERY: u64 = 100_000_000;
/// How often old addresses are forgotten.
const AGE_EVERY: u64 = 60_000_000_000;

type Task = Box<dyn FnOnce(&mut DataPlane) + Send>;

/// What the data plane tells the control side.
#[derive(Debug)]
pub enum News {
    /// What was attached to a port is gone, or was thrown out.
    Detached {
        /// Which.
        port: PortId,
        /// Why, for people.
        why: String,
    },
    /// A team uses another link.
    Failover {
        /// Which port.
        port: PortId,
        /// The link that is used now.
        active: Option<String>,
    },
}

/// The handle of the control side. Dropping it ends the thread.
#[derive(Debug)]
pub struct Plane {
    tasks: Option<Sender<Task>>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

/// Where news go, and what wakes their reader.
#[derive(Clone, Debug)]
pub struct NewsDesk {
    /// The queue.
    pub news: Sender<News>,
    /// Signalled after each.
    pub wake: Arc<EventFd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// A port may send again by its limit.
    Release(PortId),
    /// A receiver has tokens again.
    Open(PortId),
    /// Those who wait for a receiver lose patience.
    Impatience(PortId),
    /// Look at an interface that failed again.
    Retry(PortId),
    /// Look at the links of teams.
    Tend,
    /// Forget old addresses.
    Age,
}

/// All that the thread owns.
pub struct DataPlane {
    /// Ports, policies, addresses, counters.
    pub switch: Switch,
    schedule: Schedule,
    ends: Vec<End>,
    epoll: OwnedFd,
    tasks: Receiver<Task>,
    wake: Arc<EventFd>,
    desk: NewsDesk,
    due: BinaryHeap<Reverse<(u64, Due)>>,
    /// Ports with frames that are not published yet.
    dirty: Vec<PortId>,
    out: Vec<Egress>,
    scratch: Vec<u8>,
    piece: Vec<u8>,
    now: u64,
    polled: u64,
    running: bool,
}

/// Nanoseconds of the monotonic clock.
pub fn now() -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Monotonic);
    tv_sec as u64 * 1_000_000_000 + tv_nsec as u64
}

impl Plane {
    /// Starts the thread of a switch without ports.
    ///
    /// # Errors
    /// Out of descriptors or threads.
    pub fn start(name: &str, mtu: u16, desk: NewsDesk) -> io::Result<Plane> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = Arc::new(EventFd::new()?);
        epoll::add(&epoll, &*wake, EventData::new_u64(TASKS), EventFlags::IN)?;
        let (sender, tasks) = unbounded();
        let mut seed = [0; 8];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
        let time = now();
        let mut plane = DataPlane {
            switch: Switch::new(mtu, u64::from_ne_bytes(seed)),
            schedule: Schedule::default(),
            ends: Vec::new(),
            epoll,
            tasks,
            wake: wake.clone(),
            desk,
            due: BinaryHeap::from([Reverse((time + AGE_EVERY, Due::Age))]),
            dirty: Vec::new(),
            out: Vec::new(),
            scratch: Vec::new(),
            piece: Vec::new(),
            now: time,
            polled: time,
            running: true,
        };
        // The kernel keeps 15 bytes of a thread's name.
        let short: String = name.chars().filter(char::is_ascii).take(12).collect();
        let thread = std::thread::Builder::new().name(format!("sw {short}")).spawn(move || plane.run())?;
        Ok(Plane { tasks: Some(sender), wake, thread: Some(thread) })
    }

    /// Runs `task` on the thread and waits for what it returns; `None` if the thread is gone (which is a bug).
    pub fn call<R: Send + 'static>(&self, task: impl FnOnce(&mut DataPlane) -> R + Send + 'static) -> Option<R> {
        let (answer, answered) = crossbeam_channel::bounded(1);
        let task = Box::new(move |plane: &mut DataPlane| {
            // Nobody waits any more only if the control side is going down.
            let _ = answer.send(task(plane));
        });
        self.tasks.as_ref()?.send(task).ok()?;
        self.wake.signal().ok()?;
        answered.recv().ok()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.tasks = None;
        // Cannot fail for our own eventfd.
        let _ = self.wake.signal();
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _ = thread.join();
        }
    }
}

impl DataPlane {
    fn run(&mut self) {
        while self.running {
            self.now = now();
            self.run_due();
            match self.schedule.current() {
                Some(port) => {
                    self.turn(port);
                    if self.now - self.polled >= POLL_EVERY {
                        self.poll(Some(0));
                    }
                }
                None => {
                    let next = self.due.peek().map(|Reverse((at, _))| at.saturating_sub(self.now));
                    self.poll(next);
                }
            }
        }
    }

    /// Waits for descriptors, up to `timeout` nanoseconds, and notes what they are ready for.
    fn poll(&mut self, timeout: Option<u64>) {
        self.polled = self.now;
        let timeout = timeout
            .map(|nanos| Timespec { tv_sec: (nanos / 1_000_000_000) as i64, tv_nsec: (nanos % 1_000_000_000) as i64 });
        let mut space = [const { MaybeUninit::uninit() }; 64];
        // Interrupted: then nothing is ready yet, and the caller comes back.
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut space, timeout.as_ref()) else { return };
        for event in events {
            match event.data.u64() {
                TASKS => self.run_tasks(),
                port => self.ready(PortId(port as u16), event.flags),
            }
        }
    }

    fn run_tasks(&mut self) {
        // Cannot fail for our own eventfd.
        let _ = self.wake.take();
        self.now = now();
        loop {
            match self.tasks.try_recv() {
                Ok(task) => task(self),
                Err(crossbeam_channel::TryRecvError::Empty) => break,
                Err(crossbeam_channel::TryRecvError::Disconnected) => {
                    self.running = false;
                    break;
                }
            }
        }
    }

    fn run_due(&mut self) {
        while let Some(&Reverse((at, due))) = self.due.peek()
            && at <= self.now
        {
            self.due.pop();
            match due {
                Due::Release(port) => self.schedule.release(port),
                Due::Open(port) => self.schedule.open(port),
                Due::Impatience(port) => self.lose_patience(port),
                Due::Retry(port) => self.arm(port),
                Due::Tend => self.tend(),
                Due::Age => {
                    self.switch.age(self.now);
                    self.after(AGE_EVERY, Due::Age);
                }
            }
        }
    }

    fn after(&mut self, nanos: u64, due: Due) {
        self.due.push(Reverse((self.now + nanos, due)));
    }

    /// Adds a port that nothing is attached to yet.
    ///
    /// # Errors
    /// The policy cannot be.
    pub fn add_port(&mut self, policy: Policy) -> Result<PortId, PolicyError> {
        let weight = policy.weight;
        let port = self.switch.add(policy, self.now)?;
        let index = usize::from(port.0);
        if self.ends.len() <= index {
            self.ends.resize_with(index + 1, End::default);
        }
        self.ends[index] = End::default();
        self.schedule.set_weight(port, weight);
        Ok(port)
    }

    /// Gives a port another policy.
    ///
    /// # Errors
    /// The policy cannot be; nothing has changed.
    pub fn set_port(&mut self, port: PortId, policy: Policy) -> Result<(), PolicyError> {
        let weight = policy.weight;
        self.switch.set(port, policy, self.now)?;
        self.schedule.set_weight(port, weight);
        // It may have been held by a limit that is gone.
        self.schedule.release(port);
        self.schedule.open(port);
        Ok(())
    }

    /// Removes a port and whatever is attached.
    pub fn remove_port(&mut self, port: PortId) {
        self.unlink(port);
        self.schedule.set_weight(port, 0);
        self.switch.remove(port);
        self.ends[usize::from(port.0)] = End::default();
    }

    /// Attaches rings, in place of what was attached.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn attach_ring(&mut self, port: PortId, ring: PortRing, options: AttachOptions) -> io::Result<()> {
        self.unlink(port);
        epoll::add(&self.epoll, &ring.wake, EventData::new_u64(port.0.into()), EventFlags::IN)?;
        let end = &mut self.ends[usize::from(port.0)];
        *end = End { link: Link::Ring(Box::new(ring)), options, capture: end.capture.take(), ..End::default() };
        self.schedule.activate(port);
        Ok(())
    }

    /// Attaches an interface of the host.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn attach_wire(&mut self, port: PortId, uplink: Box<dyn Uplink>) -> io::Result<()> {
        self.unlink(port);
        for descriptor in uplink.descriptors() {
            let flags = EventFlags::IN | EventFlags::ONESHOT;
            epoll::add(&self.epoll, descriptor, EventData::new_u64(port.0.into()), flags)?;
        }
        if uplink.needs_tending() {
            self.after(TEND_EVERY, Due::Tend);
        }
        let end = &mut self.ends[usize::from(port.0)];
        let link = Link::Wire(Box::new(Wire { uplink, buffer: vec![0; MAX_FRAME].into(), held: None, blocked: false }));
        *end = End { link, options: AttachOptions::ALL, capture: end.capture.take(), ..End::default() };
        self.schedule.activate(port);
        Ok(())
    }

    /// Takes out what is attached.
    pub fn unlink(&mut self, port: PortId) {
        let end = &mut self.ends[usize::from(port.0)];
        match std::mem::take(&mut end.link) {
            Link::None => {}
            // Failures: the descriptor is about to be closed anyway.
            Link::Ring(ring) => drop(epoll::delete(&self.epoll, &ring.wake)),
            Link::Wire(wire) => {
                for descriptor in wire.uplink.descriptors() {
                    let _ = epoll::delete(&self.epoll, descriptor);
                }
            }
        }
        end.pending = None;
        self.schedule.finish(port);
        self.schedule.open(port);
    }

    /// Whether something is attached.
    pub fn is_attached(&self, port: PortId) -> bool {
        self.ends.get(usize::from(port.0)).is_some_and(|end| !matches!(end.link, Link::None))
    }

    /// The interface that an uplink uses now.
    pub fn active_interface(&self, port: PortId) -> Option<String> {
        match &self.ends.get(usize::from(port.0))?.link {
            Link::Wire(wire) => wire.uplink.active().map(str::to_owned),
            Link::None | Link::Ring(_) => None,
        }
    }

    /// Copies what passes a port into a queue from now on, or no longer.
    pub fn capture(&mut self, port: PortId, to: Option<(Sender<Captured>, u32)>) {
        if let Some(end) = self.ends.get_mut(usize::from(port.0)) {
            end.capture = to;
        }
    }

    /// A port broke the rules or is gone: it is detached, and the control side told.
    fn throw_out(&mut self, port: PortId, error: &RingError) {
        self.unlink(port);
        self.tell(News::Detached { port, why: error.to_string() });
    }

    fn tell(&self, news: News) {
        // The control side is gone only when the process ends.
        let _ = self.desk.news.send(news);
        let _ = self.desk.wake.signal();
    }

    /// Something about a port is ready: frames came, or there is room.
    fn ready(&mut self, port: PortId, flags: EventFlags) {
        let Some(end) = self.ends.get_mut(usize::from(port.0)) else { return };
        match &mut end.link {
            Link::None => {}
            Link::Ring(ring) => {
                if let Err(error) = ring.wake.clear() {
                    return self.throw_out(port, &error);
                }
                self.schedule.activate(port);
                self.look_for_room(port);
            }
            Link::Wire(wire) => {
                if flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP) {
                    wire.blocked = false;
                    self.schedule.open(port);
                }
                self.schedule.activate(port);
            }
        }
    }

    /// Lets those who wait for a receiver go on if half of its ring is free.
    fn look_for_room(&mut self, port: PortId) {
        let end = &mut self.ends[usize::from(port.0)];
        if !end.stalled && !self.schedule.is_waited_for(port) {
            return;
        }
        let Link::Ring(ring) = &mut end.link else { return };
        match ring.tx.wait_for_room() {
            Ok(true) => {}
            Ok(false) => {
                end.stalled = false;
                end.end_wait(self.now);
                self.schedule.open(port);
            }
            Err(error) => self.throw_out(port, &error),
        }
    }

    /// Those who wait for a receiver have waited long enough. If it reads at all they may fill what it has freed; else its frames
    /// are dropped until it does.
    fn lose_patience(&mut self, port: PortId) {
        let now = self.now;
        let end = &mut self.ends[usize::from(port.0)];
        if end.waiting_since.is_none() || !self.schedule.is_waited_for(port) {
            return;
        }
        end.end_wait(now);
        let Link::Ring(ring) = &mut end.link else { return };
        match ring.tx.pending() {
            Ok(pending) => end.stalled = pending >= end.pending_then,
            Err(error) => return self.throw_out(port, &error),
        }
        self.schedule.open(port);
    }

    /// Watches an interface again after it was read empty.
    fn arm(&mut self, port: PortId) {
        let Some(End { link: Link::Wire(wire), .. }) = self.ends.get(usize::from(port.0)) else { return };
        self.arm_wire(port, wire);
    }

    fn arm_wire(&self, port: PortId, wire: &Wire) {
        let mut flags = EventFlags::IN | EventFlags::ONESHOT;
        flags.set(EventFlags::OUT, wire.blocked);
        for descriptor in wire.uplink.descriptors() {
            // Cannot fail for a registered descriptor.
            let _ = epoll::modify(&self.epoll, descriptor, EventData::new_u64(port.0.into()), flags);
        }
    }

    fn tend(&mut self) {
        let mut any = false;
        for index in 0..self.ends.len() {
            let Link::Wire(wire) = &mut self.ends[index].link else { continue };
            any |= wire.uplink.needs_tending();
            if wire.uplink.tend() {
                let active = wire.uplink.active().map(str::to_owned);
                let port = PortId(index as u16);
                self.announce(port);
                self.tell(News::Failover { port, active });
            }
        }
        if any {
            self.after(TEND_EVERY, Due::Tend);
        }
    }
}
