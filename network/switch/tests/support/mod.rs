//! A real `bulkhead-switch` in a folder of its own, and a client of it.
#![allow(dead_code, reason = "each test program uses its part")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests drive real processes, which take real time"
)]

pub mod namespaces;

use bulkhead_linux::SeqPacket;
use bulkhead_packets::{FrameMeta, MacAddress};
use bulkhead_port::{AttachOptions, Connector, Port, PortRing, RingSize};
use bulkhead_switch_protocol::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

pub struct Switch {
    pub root: tempfile::TempDir,
    pub process: Child,
    /// Runs the process in this network namespace.
    namespace: Option<String>,
    helper: Option<Child>,
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Switch {
    pub fn start() -> Switch {
        Self::start_in(None)
    }

    pub fn start_in(namespace: Option<&str>) -> Switch {
        let root = tempfile::tempdir().unwrap();
        let process = spawn(root.path(), namespace);
        Switch { root, process, namespace: namespace.map(str::to_owned), helper: None }
    }

    /// On a host of its own, with the helper that opens interfaces there.
    pub fn start_with_helper(host: &namespaces::Namespace) -> Switch {
        let mut switch = Self::start_in(Some(&host.0));
        let own = Path::new(env!("CARGO_BIN_EXE_bulkhead-switch"));
        let program = own.with_file_name("bulkhead-net-helper");
        assert!(program.exists(), "{}: build the package bulkhead_net_helper first", program.display());
        let mut command = host.command(program.to_str().unwrap());
        switch.helper = Some(command.arg("--root").arg(switch.root.path()).spawn().unwrap());
        let socket = paths::helper_socket(switch.root.path());
        wait_until("the helper", || SeqPacket::connect(&socket).is_ok());
        switch
    }

    pub fn client(&self) -> Client {
        let path = paths::control_socket(self.root.path());
        let mut socket = None;
        wait_until("the switch", || {
            socket = SeqPacket::connect(&path).ok();
            socket.is_some()
        });
        Client { channel: Channel::new(socket.unwrap()), id: 0 }
    }

    /// As by `kill -9`, then started again.
    pub fn kill_and_restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(self.root.path(), self.namespace.as_deref());
    }

    pub fn connector(&self, ticket: &str) -> Connector {
        Connector::at_path(paths::ports_socket(self.root.path()), ticket)
    }

    /// A new port with a NIC on it that takes everything.
    pub fn plug(&self, switch: &str, settings: PortSettings) -> Nic {
        self.plug_as(switch, settings, AttachOptions::ALL)
    }

    pub fn plug_as(&self, switch: &str, settings: PortSettings, options: AttachOptions) -> Nic {
        let (ticket, mac) = self.client().create_port(switch, settings);
        let port = Port::attach(&self.connector(&ticket), RingSize::default(), options).unwrap();
        Nic { port, mac: mac.parse().unwrap(), ticket }
    }
}

fn spawn(root: &Path, namespace: Option<&str>) -> Child {
    let program = env!("CARGO_BIN_EXE_bulkhead-switch");
    let mut command = match namespace {
        Some(namespace) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace, program]);
            command
        }
        None => Command::new(program),
    };
    command.arg("--root").arg(root).spawn().unwrap()
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(helper) = &mut self.helper {
            let _ = helper.kill();
            let _ = helper.wait();
        }
    }
}

pub struct Client {
    channel: Channel<ToSwitch, FromSwitch>,
    id: u64,
}

impl Client {
    pub fn ask(&mut self, request: Request) -> Result<Answer, Problem> {
        self.ask_with(request, &[])
    }

    pub fn ask_with(&mut self, request: Request, files: &[BorrowedFd<'_>]) -> Result<Answer, Problem> {
        self.id += 1;
        self.channel.send(&ToSwitch { id: self.id, request }, files).unwrap();
        let answer = self.channel.receive().unwrap().expect("the switch closed the connection").message;
        assert_eq!(answer.id, self.id);
        answer.result
    }

    pub fn create_switch(&mut self, definition: SwitchDefinition) -> Result<Answer, Problem> {
        self.ask(Request::CreateSwitch { definition: Box::new(definition), force: false })
    }

    /// Ticket and address of a new port.
    pub fn create_port(&mut self, switch: &str, settings: PortSettings) -> (String, String) {
        let request = Request::CreatePort { switch: switch.into(), settings: Box::new(settings) };
        match self.ask(request).unwrap() {
            Answer::Port { ticket, mac, .. } => (ticket, mac),
            other => panic!("{other:?}"),
        }
    }

    pub fn ports(&mut self) -> Vec<PortStatus> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            match self.ask(Request::Ports { switch: None, after }).unwrap() {
                Answer::Ports { ports, more } => {
                    all.extend(ports);
                    after = all.last().and_then(|port| port.id);
                    if !more {
                        return all;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn port(&mut self, name: &str) -> PortStatus {
        self.ports().into_iter().find(|port| port.settings.name == name).unwrap()
    }

    pub fn drops(&mut self, name: &str, reason: &str) -> u64 {
        self.port(name).drops.get(reason).copied().unwrap_or(0)
    }
}

pub fn named(name: &str) -> PortSettings {
    PortSettings { name: name.into(), ..PortSettings::default() }
}

pub struct Nic {
    pub port: Port,
    pub mac: MacAddress,
    pub ticket: String,
}

/// Waits until the other side of a ring has done something; `false` when nothing happened for so long.
pub fn wait(ring: &PortRing, milliseconds: i64) -> bool {
    let timeout = Timespec { tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000 };
    let ready = poll(&mut [PollFd::new(&ring.wake, PollFlags::IN)], Some(&timeout)).unwrap() > 0;
    if ready {
        let _ = ring.wake.clear();
    }
    ready
}

impl Nic {
    pub fn frame(&self, to: MacAddress, body: &[u8]) -> Vec<u8> {
        let mut frame = [&to.0[..], &self.mac.0, &[0x88, 0xB5], body].concat();
        frame.resize(frame.len().max(60), 0);
        frame
    }

    pub fn send(&mut self, frame: &[u8]) {
        self.send_with(&FrameMeta::default(), frame);
    }

    pub fn send_with(&mut self, meta: &FrameMeta, frame: &[u8]) {
        while !self.port.ring.tx.send(meta, &[frame]).unwrap() {
            if self.port.ring.tx.wait_for_room().unwrap() {
                wait(&self.port.ring, 5000);
            }
        }
        self.port.ring.tx.publish().unwrap();
    }

    /// The next frame, if one comes soon.
    pub fn receive(&mut self) -> Option<(Vec<u8>, FrameMeta)> {
        self.receive_within(3000)
    }

    pub fn receive_within(&mut self, milliseconds: i64) -> Option<(Vec<u8>, FrameMeta)> {
        loop {
            let rx = &mut self.port.ring.rx;
            if let Some(frame) = rx.peek().unwrap() {
                let (mut bytes, meta) = (Vec::new(), *frame.meta());
                frame.read_all(&mut bytes).unwrap();
                rx.advance();
                rx.release().unwrap();
                return Some((bytes, meta));
            }
            if rx.sleep().unwrap() && !wait(&self.port.ring, milliseconds) {
                return None;
            }
        }
    }
}
