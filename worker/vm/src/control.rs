//! The control loop: everything that happens to the VM arrives here, in order, on one thread.

use crate::guest;
use crate::merge::Answers;
use crate::vm::Vm;
use anyhow::{Context, Result};
use bulkhead_device::PowerRequest;
use bulkhead_engine::EngineError;
use bulkhead_guest_log::guest_warn;
use bulkhead_hyperv::GuestCrash;
use bulkhead_integration::heartbeat::HeartbeatState;
use bulkhead_linux::{SeqPacket, sealed_memfd};
use bulkhead_machine::{MachineError, Resources};
use bulkhead_vm_description::VmDescription;
use bulkhead_worker_protocol::{
    Answer, Channel, ChannelError, EndedBy, Event, FromWorker, GuestRequest, Hello, Incoming, Problem, ProblemKind,
    Reply, Request, Stats, ToWorker, VERSION, VmState,
};
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// What can happen.
pub enum Input {
    /// The starter asks something.
    Request(Incoming<ToWorker>),
    /// The starter said something that nobody understands.
    Malformed { id: Option<u64>, error: String },
    /// The starter is gone.
    Disconnected,
    /// The guest asks something of the machine; its processors stop.
    Power(PowerRequest),
    /// The guest reports that it has crashed.
    GuestCrash(GuestCrash),
    /// The heartbeat has another state.
    Heartbeat(HeartbeatState),
    /// The guest has answered a request.
    Answered { id: u64, result: Result<Answer, Problem>, descriptor: Option<OwnedFd> },
    /// A program in the guest has connected to a port of the host.
    SocketAccepted { port: u32, stream: UnixStream },
    /// A test program ends the VM.
    DebugExit(u32),
    /// A processor shut down.
    TripleFault { vp: u32 },
    /// An engine gave up.
    Engine(EngineError),
    /// Something of ours broke.
    Broken(String),
    /// Ctrl-A X on the console.
    EscapeKey,
}

type Worker = Channel<FromWorker, ToWorker>;

/// Why and how the loop ends.
struct End {
    by: EndedBy,
    detail: Option<String>,
}

impl From<EndedBy> for End {
    fn from(by: EndedBy) -> End {
        End { by, detail: None }
    }
}

struct Control {
    channel: Arc<Worker>,
    inputs: Sender<Input>,
    resources: Resources,
    answers: Answers,
    vm: Option<Vm>,
}

/// Serves one VM over `socket`, until it ends.
///
/// # Errors
/// The host refuses a thread or a descriptor.
pub fn run(socket: SeqPacket) -> Result<()> {
    let channel = Arc::new(Worker::new(socket));
    let (inputs, events) = unbounded();
    let answers = Answers::default();
    let reader = (channel.clone(), inputs.clone(), answers.clone());
    let listen = move || listen(&reader.0, &reader.1, &reader.2);
    std::thread::Builder::new().name("control".into()).spawn(listen).context("cannot start the control thread")?;
    let mut control = Control { channel, inputs, resources: Resources::default(), answers, vm: None };
    let end = control.serve(&events);
    control.finish(end);
    Ok(())
}

/// Turns packets into inputs.
fn listen(channel: &Worker, inputs: &Sender<Input>, answers: &Answers) {
    loop {
        let input = match channel.receive() {
            Ok(Some(Incoming {
                message: ToWorker { id, request: Request::SwitchDisk { disk, switched } }, ..
            })) => {
                // The loop may be waiting for the writes that wait for this.
                answers.switched(disk, switched);
                let reply = FromWorker::Reply(Reply { id, result: Ok(Answer::Done) });
                if channel.send(&reply, &[]).is_err() {
                    tracing::debug!("the starter has left");
                }
                continue;
            }
            Ok(Some(incoming)) => Input::Request(incoming),
            Err(error @ ChannelError::Malformed { id, .. }) => Input::Malformed { id, error: chain(&error) },
            Ok(None) | Err(_) => {
                answers.starter_is_gone();
                Input::Disconnected
            }
        };
        let last = matches!(input, Input::Disconnected);
        if inputs.send(input).is_err() || last {
            return;
        }
    }
}

impl Control {
    fn serve(&mut self, events: &Receiver<Input>) -> End {
        loop {
            // The loop holds a sender itself, so this never fails.
            let Ok(input) = events.recv() else { return EndedBy::Failed.into() };
            let end = match input {
                Input::Request(Incoming { message: ToWorker { id, request }, descriptors }) => {
                    self.answer(id, request, descriptors)
                }
                Input::Malformed { id, error } => {
                    self.reply(id.unwrap_or(0), Err(problem(ProblemKind::Unsupported, error)));
                    None
                }
                Input::Disconnected => Some(EndedBy::Disconnected.into()),
                Input::Power(request) => self.power(request),
                Input::GuestCrash(GuestCrash { parameters, text }) => {
                    self.event(Event::GuestCrashed { parameters, text });
                    None
                }
                Input::Heartbeat(state) => {
                    self.event(Event::Heartbeat { state: state.name().into() });
                    None
                }
                Input::Answered { id, result, descriptor } => {
                    let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
                    self.send(&FromWorker::Reply(Reply { id, result }), &descriptors);
                    None
                }
                Input::SocketAccepted { port, stream } => {
                    self.send(&FromWorker::Event(Event::SocketAccepted { port }), &[stream.as_fd()]);
                    None
                }
                Input::TripleFault { vp } => self.triple_fault(vp),
                Input::Engine(error) => Some(End { by: EndedBy::Failed, detail: Some(chain(&error)) }),
                Input::Broken(what) => Some(End { by: EndedBy::Failed, detail: Some(what) }),
                Input::DebugExit(value) => Some(EndedBy::DebugExit(value).into()),
                Input::EscapeKey => Some(EndedBy::Stop.into()),
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    fn answer(&mut self, id: u64, request: Request, descriptors: Vec<OwnedFd>) -> Option<End> {
        let mut end = None;
        let result = match request {
            Request::Hello(_) => Ok(Answer::Hello(Hello { version: VERSION, features: Vec::new() })),
            Request::Resources { names } => self.add_resources(names, descriptors),
            Request::Start { description, paused } => self.make(&description, paused, false),
            Request::Restore { description, paused } => self.make(&description, paused, true),
            Request::Pause => self.with_vm(|vm| {
                vm.pause();
                Ok(Some(VmState::Paused))
            }),
            Request::Resume => self.with_vm(|vm| {
                vm.run();
                Ok(Some(VmState::Running))
            }),
            Request::Save => {
                self.event(Event::State { state: VmState::Saving });
                let was_running = self.vm.as_ref().is_some_and(|vm| !vm.is_paused());
                let saved = self.with_vm(|vm| vm.save().map(|()| None));
                match (&saved, &mut self.vm) {
                    (Ok(_), _) => end = Some(EndedBy::Saved.into()),
                    (Err(_), Some(vm)) if was_running => vm.run(),
                    _ => {}
                }
                saved
            }
            Request::Stop => {
                end = Some(EndedBy::Stop.into());
                Ok(Answer::Done)
            }
            Request::Reset => self.with_vm(|vm| vm.reset().map(|()| Some(VmState::Running))),
            Request::PowerButton => self.with_vm(|vm| {
                if let Some(device) = &vm.machine().handles().power_management {
                    device.lock().press_power_button();
                }
                Ok(None)
            }),
            Request::AttachDrive { drive, kind, medium } => {
                self.with_vm(|vm| crate::media::attach(vm, &drive, kind, medium.as_deref()))
            }
            Request::DetachDrive { drive } => self.with_vm(|vm| crate::media::detach(vm, &drive)),
            Request::InsertMedium { drive, medium } => self.with_vm(|vm| crate::media::insert(vm, &drive, &medium)),
            Request::EjectMedium { drive } => self.with_vm(|vm| crate::media::eject(vm, &drive)),
            Request::MergeDisk { disk } => self.merge(&disk),
            // Taken by the listening thread.
            Request::SwitchDisk { .. } => Ok(Answer::Done),
            Request::Screenshot => return self.screenshot(id),
            Request::Inspect { path } => return self.inspect(id, &path),
            Request::Guest(request) => return self.ask_guest(id, request),
            Request::Stats => match &mut self.vm {
                Some(vm) => Ok(Answer::Stats(Box::new(vm.stats()))),
                None => Err(no_vm()),
            },
        };
        self.reply(id, result);
        end
    }

    fn add_resources(&mut self, names: Vec<String>, descriptors: Vec<OwnedFd>) -> Result<Answer, Problem> {
        if names.len() != descriptors.len() {
            let what = format!("{} names came with {} descriptors", names.len(), descriptors.len());
            return Err(problem(ProblemKind::Invalid, what));
        }
        let resources = self.vm.as_mut().map_or(&mut self.resources, Vm::resources);
        for (name, descriptor) in names.into_iter().zip(descriptors) {
            resources.add_file(name, File::from(descriptor));
        }
        Ok(Answer::Done)
    }

    fn make(&mut self, description: &VmDescription, paused: bool, restore: bool) -> Result<Answer, Problem> {
        if self.vm.is_some() {
            return Err(problem(
                ProblemKind::WrongState,
                "this worker has its VM already; start another worker".into(),
            ));
        }
        let resources = std::mem::take(&mut self.resources);
        let mut vm = Vm::make(description, resources, restore, &self.inputs).map_err(problem_of)?;
        if !paused {
            vm.run();
        }
        self.vm = Some(vm);
        self.event(Event::State { state: if paused { VmState::Paused } else { VmState::Running } });
        Ok(Answer::Done)
    }

    /// Does something with the VM; a new state is reported.
    fn with_vm(&mut self, work: impl FnOnce(&mut Vm) -> Result<Option<VmState>>) -> Result<Answer, Problem> {
        let vm = self.vm.as_mut().ok_or_else(no_vm)?;
        let state = work(vm).map_err(problem_of)?;
        if let Some(state) = state {
            self.event(Event::State { state });
        }
        Ok(Answer::Done)
    }

    fn power(&mut self, request: PowerRequest) -> Option<End> {
        match request {
            PowerRequest::PowerOff => Some(EndedBy::PowerOff.into()),
            PowerRequest::Reset => self.reset_by_guest(EndedBy::Reset),
            PowerRequest::Sleep(state) => {
                // Not announced by our tables, so a guest that asks does not know what it does: it goes on.
                if let Some(vm) = &self.vm {
                    guest_warn!(vm.log(), state, "the guest asked for a sleep state that this machine does not have");
                }
                self.run_again();
                None
            }
        }
    }

    fn triple_fault(&mut self, vp: u32) -> Option<End> {
        tracing::info!(vp, "triple fault");
        self.reset_by_guest(EndedBy::TripleFault)
    }

    fn reset_by_guest(&mut self, by: EndedBy) -> Option<End> {
        let vm = self.vm.as_mut()?;
        if vm.ends_on_reset() {
            return Some(by.into());
        }
        match vm.reset() {
            Ok(()) => {
                self.event(Event::Reset);
                None
            }
            Err(error) => Some(End { by: EndedBy::Failed, detail: Some(format!("{error:#}")) }),
        }
    }

    fn run_again(&mut self) {
        if let Some(vm) = &mut self.vm {
            vm.pause();
            vm.run();
        }
    }

    /// Asks the guest; its answer is an input of its own.
    fn ask_guest(&mut self, id: u64, request: GuestRequest) -> Option<End> {
        match &mut self.vm {
            Some(vm) => guest::ask(vm, request, guest::Reply::new(id, &self.inputs)),
            None => self.reply(id, Err(no_vm())),
        }
        None
    }

    fn merge(&mut self, disk: &str) -> Result<Answer, Problem> {
        let (channel, answers) = (self.channel.clone(), self.answers.clone());
        let name = disk.to_owned();
        let listener = move |news| {
            let event = FromWorker::Event(Event::Merge { disk: name.clone(), news });
            if let Err(error) = channel.send(&event, &[]) {
                tracing::debug!(%error, "a message to the starter was lost");
            }
        };
        self.with_vm(|vm| {
            vm.io().answer_merges(&answers);
            vm.io().merge(disk, Box::new(listener))?;
            Ok(None)
        })
    }

    fn screenshot(&mut self, id: u64) -> Option<End> {
        let video = self.vm.as_ref().and_then(|vm| vm.machine().handles().synthetic_video.clone());
        if let Some(picture) = video.and_then(|video| video.lock().picture().ok()) {
            match picture.to_png() {
                Ok(png) => self.reply_with_document(id, "image/png", &png),
                Err(error) => self.reply(id, Err(problem(ProblemKind::Failed, chain(&error)))),
            }
            return None;
        }
        let vga = self.vm.as_ref().map(|vm| vm.machine().handles().vga.clone());
        match vga {
            None => self.reply(id, Err(no_vm())),
            Some(None) => {
                self.reply(id, Err(problem(ProblemKind::Invalid, "the VM has no display adapter".into())));
            }
            Some(Some(vga)) => {
                let png = vga.lock().png();
                match png {
                    Ok(png) => self.reply_with_document(id, "image/png", &png),
                    Err(error) => self.reply(id, Err(problem(ProblemKind::Failed, chain(&error)))),
                }
            }
        }
        None
    }

    fn inspect(&mut self, id: u64, path: &str) -> Option<End> {
        let found = self.vm.as_ref().map(|vm| vm.machine().inspect(path));
        match found {
            None => self.reply(id, Err(no_vm())),
            Some(None) => self.reply(id, Err(problem(ProblemKind::Invalid, format!("there is no device {path}")))),
            Some(Some(value)) => self.reply_with_document(id, "application/json", value.to_string().as_bytes()),
        }
        None
    }

    fn reply_with_document(&self, id: u64, media_type: &str, bytes: &[u8]) {
        let document = || -> std::io::Result<OwnedFd> {
            use std::os::unix::fs::FileExt;
            let file = File::from(sealed_memfd("document", bytes.len() as u64)?);
            file.write_all_at(bytes, 0)?;
            Ok(file.into())
        };
        match document() {
            Ok(fd) => {
                let answer = Answer::Document { length: bytes.len() as u64, media_type: media_type.into() };
                self.send(&FromWorker::Reply(Reply { id, result: Ok(answer) }), &[fd.as_fd()]);
            }
            Err(error) => {
                self.reply(id, Err(problem(ProblemKind::Failed, format!("cannot make the document: {error}"))))
            }
        }
    }

    fn reply(&self, id: u64, result: Result<Answer, Problem>) {
        self.send(&FromWorker::Reply(Reply { id, result }), &[]);
    }

    fn event(&self, event: Event) {
        self.send(&FromWorker::Event(event), &[]);
    }

    fn send(&self, message: &FromWorker, descriptors: &[std::os::fd::BorrowedFd<'_>]) {
        if let Err(error) = self.channel.send(message, descriptors) {
            // Gone starters are noticed by the reading side.
            tracing::debug!(%error, "a message to the starter was lost");
        }
    }

    fn finish(&mut self, end: End) {
        let End { mut by, mut detail } = end;
        let mut stats = Stats::default();
        if let Some(vm) = self.vm.take() {
            let (counted, flushed) = vm.end();
            stats = counted;
            if let Err(error) = flushed {
                (by, detail) = (EndedBy::Failed, Some(format!("{error:#}")));
            }
        }
        self.event(Event::State { state: VmState::Ended });
        self.event(Event::Ended { by, detail, stats: Box::new(stats) });
    }
}

fn problem(kind: ProblemKind, message: String) -> Problem {
    Problem { kind, message }
}

fn no_vm() -> Problem {
    problem(ProblemKind::WrongState, "this worker has no VM yet; start one first".into())
}

/// What kind of problem an error is, with its whole chain as the message.
fn problem_of(error: anyhow::Error) -> Problem {
    let machine = error.chain().find_map(|cause| cause.downcast_ref::<MachineError>());
    let engine = error.chain().find_map(|cause| cause.downcast_ref::<EngineError>());
    let kind = match (machine, engine) {
        (_, Some(EngineError::Unsupported { .. })) => ProblemKind::Unsupported,
        (_, Some(EngineError::Unavailable { .. })) => ProblemKind::Unavailable,
        (Some(MachineError::Description(_)), _) => ProblemKind::Invalid,
        (Some(MachineError::Memory { .. } | MachineError::CpuLevel { .. }), _) => ProblemKind::Unavailable,
        _ => ProblemKind::Failed,
    };
    problem(kind, format!("{error:#}"))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
