//! A worker with a guest, driven over the worker protocol, and the guest's console.

use bulkhead_linux::SeqPacket;
use bulkhead_vm_description::{DirectKernel, SerialConnection, SerialPort, VmDescription};
use bulkhead_worker_protocol::{
    Answer, Channel, Event, FromWorker, GuestAnswer, GuestRequest, GuestState, Hello, Incoming, Problem, Request,
    ToWorker, VERSION,
};
use crossbeam_channel::{Receiver, unbounded};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The guest works on a software processor, beside other tests.
const PATIENCE: Duration = Duration::from_secs(240);

type Link = Channel<ToWorker, FromWorker>;

pub struct Worker {
    child: Child,
    link: Arc<Link>,
    incoming: Receiver<Incoming<FromWorker>>,
    events: Vec<(Event, Vec<OwnedFd>)>,
    last_id: u64,
    output: Receiver<Vec<u8>>,
    console: String,
    input: File,
    /// The files of the description, and their names.
    kernel: DirectKernel,
}

/// The guest's files, or `None` with a reason when they were not made.
pub fn guest() -> Option<DirectKernel> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests/services");
    if !folder.join("stamp").exists() {
        eprintln!("skipped: the guest {} is missing; `cargo xtask guests services` makes it", folder.display());
        return None;
    }
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let command_line = "console=ttyS0 quiet memhp_default_state=online".into();
    Some(DirectKernel { kernel: file("vmlinuz"), initrd: Some(file("initrd")), command_line })
}

impl Worker {
    /// A worker without a VM.
    pub fn start(kernel: DirectKernel) -> Worker {
        let (ours, theirs) = SeqPacket::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_bulkhead-vm"))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let link = Arc::new(Link::new(ours));
        let (sender, incoming) = unbounded();
        let reader = link.clone();
        std::thread::spawn(move || {
            while let Ok(Some(message)) = reader.receive() {
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let (serial_input, input) = std::io::pipe().unwrap();
        let (mut output, serial_output) = std::io::pipe().unwrap();
        let (sender, received) = unbounded();
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(len @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut worker = Worker {
            child,
            link,
            incoming,
            events: Vec::new(),
            last_id: 0,
            output: received,
            console: String::new(),
            input: OwnedFd::from(input).into(),
            kernel,
        };
        worker.done(Request::Hello(Hello { version: VERSION, features: Vec::new() }));
        worker.pass("serial1", serial_output);
        worker.pass("serial1.input", serial_input);
        let (kernel, initrd) = (worker.kernel.kernel.clone(), worker.kernel.initrd.clone().unwrap());
        for path in [kernel, initrd, "/proc/meminfo".into()] {
            let name = if path == "/proc/meminfo" { "host.meminfo".into() } else { path.clone() };
            worker.pass(&name, File::open(path).unwrap());
        }
        worker
    }

    /// The description's kernel and console.
    pub fn describe(&self, vm: &mut VmDescription) {
        vm.direct_kernel = Some(self.kernel.clone());
        vm.serial.push(SerialPort { port: 1, connection: SerialConnection::Stdio });
    }

    /// Passes a file.
    pub fn pass(&mut self, name: &str, file: impl Into<OwnedFd>) {
        let file = file.into();
        let (answer, _) = self.exchange(Request::Resources { names: vec![name.into()] }, &[&file]);
        answer.unwrap();
    }

    fn exchange(&mut self, request: Request, files: &[&OwnedFd]) -> (Result<Answer, Problem>, Vec<OwnedFd>) {
        let id = self.tell(request, files);
        self.answer(id)
    }

    /// Sends a request; its answer is awaited with [`Worker::answer`].
    pub fn tell(&mut self, request: Request, files: &[&OwnedFd]) -> u64 {
        self.last_id += 1;
        let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        self.link.send(&ToWorker { id: self.last_id, request }, &files).unwrap();
        self.last_id
    }

    /// Waits for the answer to a request.
    pub fn answer(&mut self, id: u64) -> (Result<Answer, Problem>, Vec<OwnedFd>) {
        loop {
            let Ok(Incoming { message, descriptors }) = self.incoming.recv_timeout(PATIENCE) else {
                panic!("no answer to request {id}; console:\n{}", self.console)
            };
            match message {
                FromWorker::Reply(reply) if reply.id == id => return (reply.result, descriptors),
                FromWorker::Reply(reply) => panic!("an answer to {}, not to {id}", reply.id),
                FromWorker::Event(event) => self.events.push((event, descriptors)),
            }
        }
    }

    /// A request that succeeds.
    #[track_caller]
    pub fn done(&mut self, request: Request) -> Answer {
        self.exchange(request, &[]).0.unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// A request for the guest that succeeds.
    #[track_caller]
    pub fn ask(&mut self, request: GuestRequest) -> Answer {
        self.done(Request::Guest(request))
    }

    /// A request for the guest that is refused.
    #[track_caller]
    pub fn refused(&mut self, request: GuestRequest) -> Problem {
        self.exchange(Request::Guest(request), &[]).0.expect_err("this is to be refused")
    }

    /// A request that is answered with a descriptor.
    #[track_caller]
    pub fn descriptor(&mut self, request: Request) -> OwnedFd {
        let (answer, descriptors) = self.exchange(request, &[]);
        answer.unwrap_or_else(|problem| panic!("{problem}"));
        descriptors.into_iter().next().expect("a descriptor")
    }

    pub fn state(&mut self) -> GuestState {
        match self.ask(GuestRequest::State) {
            Answer::Guest(GuestAnswer::State(state)) => *state,
            other => panic!("{other:?}"),
        }
    }

    /// Asks for the state until it is as expected.
    #[track_caller]
    pub fn wait_state(&mut self, what: &str, expected: impl Fn(&GuestState) -> bool) -> GuestState {
        let end = Instant::now() + PATIENCE;
        loop {
            let state = self.state();
            if expected(&state) {
                return state;
            }
            assert!(Instant::now() < end, "{what}: {state:?}; console:\n{}", self.console);
            // Nothing tells of it: look again a little later, and take events meanwhile.
            if let Ok(Incoming { message: FromWorker::Event(event), descriptors }) =
                self.incoming.recv_timeout(Duration::from_millis(100))
            {
                self.events.push((event, descriptors));
            }
        }
    }

    /// Waits for an event.
    #[track_caller]
    pub fn event(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> (Event, Vec<OwnedFd>) {
        loop {
            if let Some(at) = self.events.iter().position(|(event, _)| wanted(event)) {
                return self.events.remove(at);
            }
            match self.incoming.recv_timeout(PATIENCE) {
                Ok(Incoming { message: FromWorker::Event(event), descriptors }) => {
                    self.events.push((event, descriptors));
                }
                Ok(_) => {}
                Err(_) => panic!("no event {what}; console:\n{}", self.console),
            }
        }
    }

    /// Waits until the guest prints this; returns what it printed before.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.console.find(text) {
                let rest = self.console.split_off(at + text.len());
                return std::mem::replace(&mut self.console, rest);
            }
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.console.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("the guest did not print {text:?}; console:\n{}", self.console),
            }
        }
    }

    /// Runs a command in the guest's shell; returns what it printed.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> String {
        self.input.write_all(format!("{command}\n").as_bytes()).unwrap();
        let output = self.wait_for("READY\r\n");
        let output = output.trim_end_matches("READY\r\n");
        // Without the echo of the command.
        output.split_once("\r\n").map_or(output, |(_, rest)| rest).replace("\r\n", "\n")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder for this run.
pub fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("bulkhead-guest-services-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
