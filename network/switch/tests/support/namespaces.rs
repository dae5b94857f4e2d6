//! Network namespaces as hosts, veth pairs as cables, tshark as witness.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether the test can run; says why not.
pub fn root_and_tools(tools: &[&str]) -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root makes network namespaces");
        return false;
    }
    for tool in tools {
        if Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            eprintln!("skipped: {tool} is not installed");
            return false;
        }
    }
    if !Command::new("ip").args(["netns", "list"]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no network namespaces here");
        return false;
    }
    true
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {words}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub struct Namespace(pub String);

impl Namespace {
    pub fn new(name: &str) -> Namespace {
        let name = format!("bh{}-{}-{name}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        run("ip", &["-n", &name, "link", "set", "lo", "up"]);
        Namespace(name)
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        run("ip", &[&["netns", "exec", &self.0, program], arguments].concat())
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

/// A cable. It goes with its namespaces.
pub struct Veth;

impl Veth {
    pub fn between(a: &Namespace, a_name: &str, b: &Namespace, b_name: &str) -> Veth {
        let peer = ["peer", "name", b_name, "netns", &b.0];
        run("ip", &[&["-n", &a.0, "link", "add", a_name, "type", "veth"], &peer[..]].concat());
        run("ip", &["-n", &a.0, "link", "set", a_name, "up"]);
        run("ip", &["-n", &b.0, "link", "set", b_name, "up"]);
        Veth
    }
}

/// What tshark sees on an interface.
pub struct Capture {
    tshark: Child,
    file: tempfile::NamedTempFile,
}

impl Capture {
    pub fn start(namespace: &Namespace, interface: &str) -> Capture {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut command = namespace.command("tshark");
        command.args(["-q", "-n", "-i", interface, "-w"]).arg(file.path());
        let tshark = command.stderr(Stdio::null()).spawn().unwrap();
        super::wait_until("the capture", || file.path().metadata().is_ok_and(|metadata| metadata.len() > 0));
        Capture { tshark, file }
    }

    /// The fields of the frames that match, one line per frame; waits until there are `frames` of them, because tshark writes late.
    pub fn stop(mut self, fields: &[&str], filter: &str, frames: usize) -> Vec<String> {
        super::wait_until("the frames in the capture", || self.read(fields, filter).len() >= frames);
        let pid = rustix::process::Pid::from_child(&self.tshark);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.tshark.wait().unwrap();
        self.read(fields, filter)
    }

    fn read(&self, fields: &[&str], filter: &str) -> Vec<String> {
        let mut command = Command::new("tshark");
        command.arg("-r").arg(self.file.path()).args(["-Y", filter, "-T", "fields"]);
        for field in fields {
            command.args(["-e", field]);
        }
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }
}
