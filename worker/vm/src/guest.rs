//! Requests for the guest's own drivers and daemons. Answers come when the guest gives them, through the control loop.

use crate::control::Input;
use crate::vm::Vm;
use bulkhead_balloon::Target;
use bulkhead_input::{Buttons, Key, Pointer};
use bulkhead_integration::file_copy::{Destination, Source};
use bulkhead_integration::key_value::{Answer as KeyAnswer, Item, Operation, Pool, Value};
use bulkhead_integration::shutdown::ShutdownKind;
use bulkhead_integration::{IntegrationDevice, Phase, Service, ServiceError};
use bulkhead_vm_description::IntegrationServices;
use bulkhead_worker_protocol::{
    Answer, GuestAnswer, GuestMemoryState, GuestRequest, GuestState, KeyPool, KeyStroke, Problem, ProblemKind,
    ShutDownKind,
};
use crossbeam_channel::Sender;
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

/// What users of the guest have to save their work.
const SHUT_DOWN_WITHIN: Duration = Duration::from_secs(60);

/// Bytes of a list of keys: it has to fit into a packet of 64 KiB.
const MAX_LIST: usize = 60_000;

type Answered = Result<(Answer, Option<OwnedFd>), Problem>;
type Handle<S> = Option<Arc<Mutex<IntegrationDevice<S>>>>;

/// Where the answer to one request goes. Usable from every thread.
pub struct Reply {
    id: u64,
    inputs: Sender<Input>,
}

impl Reply {
    /// For the request `id`.
    pub fn new(id: u64, inputs: &Sender<Input>) -> Reply {
        Reply { id, inputs: inputs.clone() }
    }

    fn send(self, result: Answered) {
        let (result, descriptor) = match result {
            Ok((answer, descriptor)) => (Ok(answer), descriptor),
            Err(problem) => (Err(problem), None),
        };
        // The loop is gone only when the process ends.
        let _ = self.inputs.send(Input::Answered { id: self.id, result, descriptor });
    }

    fn done(self) {
        self.send(Ok((Answer::Done, None)));
    }

    fn refuse(self, kind: ProblemKind, message: impl Into<String>) {
        self.send(Err(Problem { kind, message: message.into() }));
    }

    /// For services, which answer `()`.
    fn on_done(self) -> Box<dyn FnOnce(Result<(), ServiceError>) + Send> {
        Box::new(move |result| self.send(result.map(|()| (Answer::Done, None)).map_err(problem_of)))
    }
}

/// Does what is asked.
pub fn ask(vm: &mut Vm, request: GuestRequest, reply: Reply) {
    let services = &vm.machine().handles().integration;
    match request {
        GuestRequest::ShutDown { kind, force, message } => {
            let kind = match kind {
                ShutDownKind::PowerOff => ShutdownKind::PowerOff,
                ShutDownKind::Restart => ShutdownKind::Restart,
                ShutDownKind::Hibernate => ShutdownKind::Hibernate,
            };
            with(&services.shutdown, reply, |device, reply| {
                let answer = reply.on_done();
                device.ask(|service, later| {
                    service.request(kind, force, SHUT_DOWN_WITHIN, &message, answer, later);
                });
            });
        }
        GuestRequest::State => reply.send(Ok((guest(GuestAnswer::State(Box::new(state(vm)))), None))),
        GuestRequest::ListKeys { pool } => keys(&services.key_value, Operation::List { pool: self::pool(pool) }, reply),
        GuestRequest::ReadKey { pool, key } => {
            keys(&services.key_value, Operation::Get { pool: self::pool(pool), key }, reply);
        }
        GuestRequest::WriteKey { pool, key, value } => {
            let item = Item { key, value: Value::Text(value) };
            keys(&services.key_value, Operation::Set { pool: self::pool(pool), item }, reply);
        }
        GuestRequest::DeleteKey { pool, key } => {
            keys(&services.key_value, Operation::Delete { pool: self::pool(pool), key }, reply);
        }
        GuestRequest::CopyFile { source, folder, name, overwrite, create_folders } => {
            let to = Destination { folder, name, overwrite, create_folders };
            copy_file(vm, &source, &to, reply);
        }
        GuestRequest::Freeze { hold_seconds } => with(&services.volume_snapshot, reply, |device, reply| {
            let (hold, answer) = (Duration::from_secs(hold_seconds.into()), reply.on_done());
            device.ask(|service, later| service.freeze(hold, answer, later));
        }),
        GuestRequest::Thaw => with(&services.volume_snapshot, reply, |device, reply| {
            let answer = reply.on_done();
            device.ask(|service, later| service.thaw(answer, later));
        }),
        GuestRequest::SetService { name, on } => match services.switch(&name, on) {
            Ok(()) => reply.done(),
            Err(error) => reply.refuse(ProblemKind::Invalid, error.to_string()),
        },
        GuestRequest::Keys { keys } => press(vm, &keys, reply),
        GuestRequest::Pointer { x, y, buttons, wheel } => point(vm, x, y, buttons, wheel, reply),
        GuestRequest::SetMemory { bytes } => match &vm.machine().handles().memory {
            Some(memory) => {
                memory.lock().set_target(bytes.map_or(Target::ByDemand, Target::Fixed));
                reply.done();
            }
            None => reply.refuse(ProblemKind::WrongState, "the VM's memory is not dynamic; give it a maximum"),
        },
        GuestRequest::ConnectSocket { port } => with_sockets(vm, reply, |sockets, reply| match sockets.connect(port) {
            Ok(stream) => reply.send(Ok((guest(GuestAnswer::Socket), Some(stream.into())))),
            Err(error) => reply.refuse(ProblemKind::Failed, chain(&error)),
        }),
        GuestRequest::ListenSocket { port, on } => with_sockets(vm, reply, |sockets, reply| {
            sockets.listen(port, on);
            reply.done();
        }),
        GuestRequest::ServeSocket { port, listener } => {
            let Some(listener) = vm.resources().take_file(&listener) else {
                return reply.refuse(ProblemKind::NotFound, format!("the socket {listener} was not passed"));
            };
            let listener = UnixListener::from(OwnedFd::from(listener));
            with_sockets(vm, reply, |sockets, reply| match sockets.serve(port, listener) {
                Ok(()) => reply.done(),
                Err(error) => reply.refuse(ProblemKind::Failed, format!("cannot serve port {port}: {error}")),
            });
        }
    }
}

fn guest(answer: GuestAnswer) -> Answer {
    Answer::Guest(answer)
}

/// Does something with a service that is there.
fn with<S: Service>(handle: &Handle<S>, reply: Reply, work: impl FnOnce(&mut IntegrationDevice<S>, Reply)) {
    match handle {
        Some(device) => work(&mut device.lock(), reply),
        None => {
            let message = format!("the VM has no service {}: the Hyper-V interface is off", S::IDENTITY.name);
            reply.refuse(ProblemKind::WrongState, message);
        }
    }
}

fn with_sockets(vm: &Vm, reply: Reply, work: impl FnOnce(&bulkhead_socket::Sockets, Reply)) {
    match &vm.machine().handles().sockets {
        Some(sockets) => work(sockets, reply),
        None => reply.refuse(ProblemKind::WrongState, "the VM has no sockets: the Hyper-V interface is off"),
    }
}

fn keys(handle: &Handle<bulkhead_integration::key_value::KeyValue>, operation: Operation, reply: Reply) {
    with(handle, reply, |device, reply| {
        let answer = Box::new(move |result: Result<KeyAnswer, ServiceError>| {
            reply.send(result.map_err(problem_of).and_then(key_answer).map(|answer| (answer, None)));
        });
        device.ask(|service, later| service.start(operation, answer, later));
    });
}

fn key_answer(answer: KeyAnswer) -> Result<Answer, Problem> {
    let text = |value: Value| value.to_string();
    Ok(match answer {
        KeyAnswer::Done | KeyAnswer::Addresses(_) => Answer::Done,
        KeyAnswer::Value(value) => guest(GuestAnswer::Value(text(value))),
        KeyAnswer::Items(items) => {
            let pairs: Vec<_> = items.into_iter().map(|item| (item.key, text(item.value))).collect();
            let len = serde_json::to_vec(&pairs).map_or(usize::MAX, |json| json.len());
            if len > MAX_LIST {
                let message =
                    format!("the {} keys take {len} bytes, more than an answer holds: read them singly", pairs.len());
                return Err(Problem { kind: ProblemKind::Failed, message });
            }
            guest(GuestAnswer::Keys(pairs))
        }
    })
}

fn pool(pool: KeyPool) -> Pool {
    match pool {
        KeyPool::External => Pool::External,
        KeyPool::Guest => Pool::Guest,
        KeyPool::Auto => Pool::Auto,
        KeyPool::AutoExternal => Pool::AutoExternal,
        KeyPool::Internal => Pool::Internal,
    }
}

/// A regular file that was passed.
struct Passed {
    file: File,
    len: u64,
}

impl Source for Passed {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

fn copy_file(vm: &mut Vm, source: &str, to: &Destination, reply: Reply) {
    let Some(file) = vm.resources().take_file(source) else {
        return reply.refuse(ProblemKind::NotFound, format!("the file {source} was not passed"));
    };
    let len = match file.metadata() {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return reply.refuse(ProblemKind::Invalid, format!("{source} is no regular file")),
        Err(error) => return reply.refuse(ProblemKind::Failed, format!("cannot look at {source}: {error}")),
    };
    with(&vm.machine().handles().integration.file_copy, reply, |device, reply| {
        let answer = reply.on_done();
        device.ask(|service, later| service.copy(Box::new(Passed { file, len }), to, answer, later));
    });
}

/// Keys go to the synthetic keyboard when the guest drives it, else to the PS/2 one.
fn press(vm: &Vm, keys: &[KeyStroke], reply: Reply) {
    let handles = vm.machine().handles();
    for KeyStroke { code, down } in keys {
        let low = (*code & 0x7f) as u8;
        let taken = match &handles.synthetic_keyboard {
            Some(keyboard) if keyboard.lock().is_ready() => {
                let key = match code {
                    0xe11d => Key::Pause,
                    0xe000.. => Key::Extended(low),
                    _ => Key::Plain(low),
                };
                keyboard.lock().key(key, *down)
            }
            _ => {
                let key = match code {
                    0xe11d => bulkhead_ps2::Key::Pause,
                    0xe000.. => bulkhead_ps2::Key::Extended(low),
                    _ => bulkhead_ps2::Key::Plain(low),
                };
                handles.ps2.as_ref().is_some_and(|ps2| ps2.lock().key(key, *down))
            }
        };
        if !taken {
            return reply.refuse(ProblemKind::WrongState, "the guest does not read its keyboard; try again later");
        }
    }
    reply.done();
}

fn point(vm: &Vm, x: u16, y: u16, buttons: u8, wheel: i16, reply: Reply) {
    let bit = |bit: u8| buttons >> bit & 1 != 0;
    let buttons = Buttons { left: bit(0), right: bit(1), middle: bit(2), back: bit(3), forward: bit(4) };
    let mouse = vm.machine().handles().synthetic_mouse.as_ref();
    if mouse.is_some_and(|mouse| mouse.lock().pointer(Pointer { x, y, wheel, buttons })) {
        reply.done();
    } else {
        reply.refuse(ProblemKind::WrongState, "the guest has no driver for the synthetic mouse (hid_hyperv)");
    }
}

fn state(vm: &Vm) -> GuestState {
    let handles = vm.machine().handles();
    let services = &handles.integration;
    let heartbeat = services.heartbeat.as_ref().map(|device| device.lock().service().state().name().to_owned());
    let states = [
        phase(&services.shutdown),
        phase(&services.time),
        phase(&services.heartbeat),
        phase(&services.key_value),
        phase(&services.volume_snapshot),
        phase(&services.file_copy),
    ];
    let services = IntegrationServices::NAMES.iter().zip(states).map(|(name, phase)| {
        let phase = if services.is_offered(name) { phase } else { "off".into() };
        ((*name).to_owned(), phase)
    });
    let memory = handles.memory.as_ref().map(|device| {
        let status = device.lock().status();
        GuestMemoryState {
            assigned: status.assigned,
            demand: status.demand,
            available: status.available,
            target: status.target,
            ballooned: status.ballooned,
            hot_added: status.hot_added,
        }
    });
    GuestState { heartbeat, services: services.collect(), memory }
}

fn phase<S: Service>(handle: &Handle<S>) -> String {
    match handle.as_ref().map(|device| device.lock().phase()) {
        None => "off".into(),
        Some(Phase::Closed) => "closed".into(),
        Some(Phase::Negotiating) => "negotiating".into(),
        Some(Phase::Ready(agreed)) => format!("ready {}", agreed.message),
        Some(Phase::Refused) => "refused".into(),
    }
}

fn problem_of(error: ServiceError) -> Problem {
    let kind = match error {
        ServiceError::NotReady { .. } | ServiceError::Busy { .. } | ServiceError::Closed { .. } => {
            ProblemKind::WrongState
        }
        ServiceError::TooLong { .. } => ProblemKind::Invalid,
        ServiceError::NoKey { .. } => ProblemKind::NotFound,
        ServiceError::Refused { .. } => ProblemKind::Refused,
        _ => ProblemKind::Failed,
    };
    Problem { kind, message: error.to_string() }
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
