//! A worker and the other end of its socket.

use bulkhead_linux::SeqPacket;
use bulkhead_vm_description::{SerialConnection, SerialPort, VmDescription};
use bulkhead_worker_protocol::{
    Answer, Channel, EndedBy, Event, FromWorker, Hello, Incoming, Problem, Reply, Request, ToWorker, VERSION,
};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long anything may take: a software processor on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A file of a guest that `cargo xtask guests` makes.
pub fn guest_file(path: &str) -> Option<PathBuf> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests").join(path);
    if !file.exists() {
        eprintln!("skipped: {path} is not made; run `cargo xtask guests`");
        return None;
    }
    Some(file)
}

pub struct Worker {
    child: Child,
    link: Channel<ToWorker, FromWorker>,
    last_id: u64,
    /// What was said without being asked for.
    pub events: Vec<Event>,
    input: OwnedFd,
    output: Receiver<Vec<u8>>,
    text: String,
    seen: usize,
}

impl Worker {
    /// A worker that has been greeted and given COM1.
    pub fn start() -> Worker {
        let (ours, theirs) = SeqPacket::pair().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead-vm"));
        let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).spawn().unwrap();
        let (serial_input, input) = std::io::pipe().unwrap();
        let (mut console, serial_output) = std::io::pipe().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = console.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let (link, input) = (Channel::new(ours), OwnedFd::from(input));
        let mut worker =
            Worker { child, link, last_id: 0, events: Vec::new(), input, output, text: String::new(), seen: 0 };
        worker.done(Request::Hello(Hello { version: VERSION, features: Vec::new() }));
        worker.pass("serial1", serial_output);
        worker.pass("serial1.input", serial_input);
        worker
    }

    /// Starts the VM.
    pub fn run(&mut self, vm: VmDescription) {
        let description = self.prepare(vm);
        self.done(Request::Start { description, paused: false });
    }

    /// Continues the VM whose saved state has been passed.
    pub fn restore(&mut self, vm: VmDescription) {
        let description = self.prepare(vm);
        self.done(Request::Restore { description, paused: false });
    }

    /// Continues the VM whose saved state has been passed, if the worker accepts it.
    pub fn try_restore(&mut self, vm: VmDescription) -> Result<Answer, Problem> {
        let description = self.prepare(vm);
        self.exchange(Request::Restore { description, paused: false }, &[]).0
    }

    /// Passes the kernel and gives the VM its COM1.
    fn prepare(&mut self, mut vm: VmDescription) -> Box<VmDescription> {
        vm.serial.push(SerialPort { port: 1, connection: SerialConnection::Stdio });
        for path in vm.direct_kernel.iter().flat_map(|direct| std::iter::once(&direct.kernel).chain(&direct.initrd)) {
            self.pass(path, File::open(path).unwrap());
        }
        Box::new(vm)
    }

    /// Passes a file.
    pub fn pass(&mut self, name: &str, file: impl Into<OwnedFd>) {
        let (answer, _) = self.exchange(Request::Resources { names: vec![name.into()] }, &[file.into()]);
        assert_eq!(answer, Ok(Answer::Done));
    }

    /// Asks, and waits for the answer and what comes along.
    pub fn exchange(&mut self, request: Request, files: &[OwnedFd]) -> (Result<Answer, Problem>, Vec<OwnedFd>) {
        self.last_id += 1;
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        self.link.send(&ToWorker { id: self.last_id, request }, &files).unwrap();
        loop {
            let Incoming { message, descriptors } = self.link.receive().unwrap().expect("the worker is there");
            match message {
                FromWorker::Reply(Reply { id, result }) if id == self.last_id => return (result, descriptors),
                FromWorker::Reply(reply) => panic!("an answer to nothing: {reply:?}"),
                FromWorker::Event(event) => self.events.push(event),
            }
        }
    }

    /// Asks for something that must succeed.
    pub fn done(&mut self, request: Request) -> Answer {
        self.exchange(request, &[]).0.unwrap()
    }

    /// Asks for something that must be refused.
    pub fn refused(&mut self, request: Request) -> Problem {
        self.exchange(request, &[]).0.unwrap_err()
    }

    /// Types.
    pub fn send(&mut self, text: &str) {
        let mut input = File::from(self.input.try_clone().unwrap());
        input.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the guest prints `wanted` behind what was waited for before, and returns what came until then.
    pub fn expect(&mut self, wanted: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.text[self.seen..].find(wanted) {
                let from = self.seen;
                self.seen += at + wanted.len();
                return self.text[from..self.seen].replace('\r', "");
            }
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("no {wanted:?}: {error}; the guest printed:\n{}", self.text),
            }
        }
    }

    /// Has the test initramfs execute a line, and returns what it printed.
    pub fn command(&mut self, line: &str) -> String {
        self.send(&format!("{line}\n"));
        self.expect("READY")
    }

    /// Stops the VM, which may be ending by itself.
    pub fn end_now(mut self) {
        // An error means that it has ended.
        let _ = self.link.send(&ToWorker { id: u64::MAX, request: Request::Stop }, &[]);
        while let Ok(Some(_)) = self.link.receive() {}
        assert!(self.child.wait().unwrap().success(), "the worker failed");
    }

    /// Waits until the VM has ended and the process is gone.
    pub fn end(mut self) -> EndedBy {
        loop {
            let message = self.link.receive().unwrap().expect("the end is told").message;
            if let FromWorker::Event(Event::Ended { by, .. }) = message {
                assert!(self.child.wait().unwrap().success());
                return by;
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A failed test leaves no VM behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
