//! The threads that run VPs: one per VP, or a single one for all of them in deterministic mode.

use crate::control::Input;
use crate::power::Gate;
use bulkhead_engine::{EngineError, RunLimit, Stop, Vp, VpState, VpStats};
use bulkhead_machine::Exits;
use bulkhead_reactor::VirtualReactor;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// A VP and the answers to its exits.
pub struct Runnable {
    pub index: u32,
    pub vp: Box<dyn Vp>,
    pub exits: Exits,
}

enum Command {
    /// Until the gate closes; answered by `Parked`.
    Run,
    State(Sender<Vec<Result<VpState, EngineError>>>),
    SetState(Vec<VpState>, Sender<Result<(), EngineError>>),
    Stats(Sender<Vec<VpStats>>),
}

struct Thread {
    commands: Sender<Command>,
    parked: Receiver<()>,
    vps: usize,
    handle: Option<JoinHandle<()>>,
}

/// All VP threads.
pub struct Executor {
    gate: Arc<Gate>,
    threads: Vec<Thread>,
    running: bool,
    /// The clock of counted instructions, in deterministic mode.
    time: Option<Arc<Mutex<VirtualReactor>>>,
}

/// Runs a group of VPs until the gate closes.
type Drive = Box<dyn FnMut(&mut [Runnable], &Gate) -> Result<(), Input> + Send>;

impl Executor {
    /// One thread per VP, all parked.
    ///
    /// # Errors
    /// The host refuses a thread.
    pub fn threaded(vps: Vec<Runnable>, gate: Arc<Gate>, inputs: &Sender<Input>) -> io::Result<Executor> {
        let mut threads = Vec::new();
        for vp in vps {
            let name = format!("vp{}", vp.index);
            threads.push(start(&name, vec![vp], Box::new(drive_one), gate.clone(), inputs.clone())?);
        }
        Ok(Executor { gate, threads, running: false, time: None })
    }

    /// One thread for all VPs, whose time is the count of instructions.
    ///
    /// # Errors
    /// The host refuses a thread.
    pub fn deterministic(
        vps: Vec<Runnable>,
        time: VirtualReactor,
        gate: Arc<Gate>,
        inputs: &Sender<Input>,
    ) -> io::Result<Executor> {
        let time = Arc::new(Mutex::new(time));
        let driver = time.clone();
        let drive = move |vps: &mut [Runnable], gate: &Gate| drive_counted(vps, &mut driver.lock(), gate);
        let thread = start("vps", vps, Box::new(drive), gate.clone(), inputs.clone())?;
        Ok(Executor { gate, threads: vec![thread], running: false, time: Some(time) })
    }

    /// Lets all VPs run.
    pub fn run(&mut self) {
        if !std::mem::replace(&mut self.running, true) {
            self.gate.open();
            for thread in &self.threads {
                thread.send(Command::Run);
            }
        }
    }

    /// Stops all VPs and waits until they stand still.
    pub fn stop(&mut self) {
        if std::mem::replace(&mut self.running, false) {
            self.gate.close();
            for thread in &self.threads {
                // An error means that the thread is gone, which is as still as can be.
                let _ = thread.parked.recv();
            }
        }
    }

    /// Waits for `done` while all VPs stand still. Work of devices goes on meanwhile; in deterministic mode it would not, because
    /// nobody but VPs drives it.
    pub fn wait_still(&self, done: &Receiver<()>) {
        let Some(time) = &self.time else {
            // An error means that the sender was dropped unused, and then there is nothing to wait for either.
            let _ = done.recv();
            return;
        };
        let mut time = time.lock();
        while done.try_recv() == Err(TryRecvError::Empty) {
            time.wait_fds(Some(WAIT));
        }
    }

    /// The states of all VPs, which stand still.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn states(&self) -> Result<Vec<VpState>, EngineError> {
        let mut states = Vec::new();
        for thread in &self.threads {
            let (reply, answer) = bounded(1);
            thread.send(Command::State(reply));
            for state in answer.recv().map_err(|_| gone())? {
                states.push(state?);
            }
        }
        Ok(states)
    }

    /// Gives all VPs, which stand still, new states.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn set_states(&self, states: Vec<VpState>) -> Result<(), EngineError> {
        let mut states = states.into_iter();
        for thread in &self.threads {
            let (reply, answer) = bounded(1);
            thread.send(Command::SetState(states.by_ref().take(thread.vps).collect(), reply));
            answer.recv().map_err(|_| gone())??;
        }
        Ok(())
    }

    /// Counters of all VPs. Stops them for a moment if they run.
    pub fn stats(&mut self) -> Vec<VpStats> {
        let was_running = self.running;
        self.stop();
        let mut stats = Vec::new();
        for thread in &self.threads {
            let (reply, answer) = bounded(1);
            thread.send(Command::Stats(reply));
            stats.extend(answer.recv().unwrap_or_default());
        }
        if was_running {
            self.run();
        }
        stats
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.stop();
        for mut thread in self.threads.drain(..) {
            drop(thread.commands);
            if let Some(handle) = thread.handle.take() {
                // A panic of the thread has been printed already.
                let _ = handle.join();
            }
        }
    }
}

impl Thread {
    fn send(&self, command: Command) {
        // A thread that is gone has told the control loop why.
        let _ = self.commands.send(command);
    }
}

fn gone() -> EngineError {
    EngineError::BadVp { index: 0, reason: "its thread has ended" }
}

fn start(
    name: &str,
    mut vps: Vec<Runnable>,
    mut drive: Drive,
    gate: Arc<Gate>,
    inputs: Sender<Input>,
) -> io::Result<Thread> {
    let (commands, orders) = unbounded();
    let (park, parked) = unbounded();
    let count = vps.len();
    let body = move || {
        let _last_word = LastWord(inputs.clone());
        while let Ok(command) = orders.recv() {
            match command {
                Command::Run => {
                    if let Err(input) = drive(&mut vps, &gate) {
                        let _ = inputs.send(input);
                    }
                    let _ = park.send(());
                }
                Command::State(reply) => {
                    let _ = reply.send(vps.iter_mut().map(|vp| vp.vp.state()).collect());
                }
                Command::SetState(states, reply) => {
                    let mut pairs = vps.iter_mut().zip(&states);
                    let _ = reply.send(pairs.try_for_each(|(vp, state)| vp.vp.set_state(state)));
                }
                Command::Stats(reply) => {
                    let _ = reply.send(vps.iter().map(|vp| vp.vp.stats()).collect());
                }
            }
        }
    };
    let handle = std::thread::Builder::new().name(name.into()).spawn(body)?;
    Ok(Thread { commands, parked, vps: count, handle: Some(handle) })
}

/// Tells the control loop when a thread panics, so that the VM ends instead of hanging.
struct LastWord(Sender<Input>);

impl Drop for LastWord {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(Input::Broken("a processor thread panicked; this is a defect of Bulkhead".into()));
        }
    }
}

/// One VP on its own thread.
fn drive_one(vps: &mut [Runnable], gate: &Gate) -> Result<(), Input> {
    for Runnable { index, vp, exits } in vps {
        while gate.is_open() {
            if vp.run(exits, RunLimit::Unlimited).map_err(Input::Engine)? == Stop::TripleFault {
                return Err(Input::TripleFault { vp: *index });
            }
        }
    }
    Ok(())
}

/// Instructions that a VP runs before the next one has its turn; one is a nanosecond.
const QUANTUM: u64 = 20_000;
/// Rounds between two looks at descriptors.
const POLL_ROUNDS: u32 = 64;
/// How long to wait for the outside when every VP is halted and no timer is armed.
const WAIT: Duration = Duration::from_millis(20);

/// All VPs in turns, with time that moves by what they executed.
fn drive_counted(vps: &mut [Runnable], time: &mut VirtualReactor, gate: &Gate) -> Result<(), Input> {
    let reactor = time.handle();
    let mut round = 0u32;
    while gate.is_open() {
        let now = reactor.now();
        let to_deadline = time.next_deadline().map_or(QUANTUM, |at| (at - now).as_nanos() as u64);
        let quantum = to_deadline.clamp(1, QUANTUM);
        let mut busy = false;
        for Runnable { index, vp, exits } in &mut *vps {
            match vp.run(exits, RunLimit::Instructions(quantum)).map_err(Input::Engine)? {
                Stop::LimitReached | Stop::Kicked => busy = true,
                Stop::Halted => {}
                Stop::TripleFault => return Err(Input::TripleFault { vp: *index }),
            }
        }
        match time.next_deadline() {
            _ if busy => time.advance_to(now + Duration::from_nanos(quantum)),
            Some(deadline) => time.advance_to(deadline),
            None => drop(time.wait_fds(Some(WAIT))),
        }
        round = round.wrapping_add(1);
        if round.is_multiple_of(POLL_ROUNDS) {
            time.poll_fds();
        }
    }
    Ok(())
}
