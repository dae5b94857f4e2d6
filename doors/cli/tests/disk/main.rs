//! `bulkhead disk` end to end: the real programs, real files, and foreign tools as judges.

mod boot;
mod cancel;
mod chains;
mod mount;
mod refusals;
mod serve;
mod verbs;

#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// The size of the disks in most tests.
const SIZE: u64 = 24 << 20;

/// A folder with images.
struct Lab {
    folder: tempfile::TempDir,
}

/// How a command ended.
struct Outcome {
    code: i32,
    out: String,
    err: String,
}

impl Outcome {
    /// What it printed, as JSON; it must have succeeded.
    #[track_caller]
    fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, 0, "{}", self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

impl Lab {
    /// `None`, with the reason on standard error, if the image process is not built.
    fn new() -> Option<Lab> {
        let beside = Path::new(env!("CARGO_BIN_EXE_bulkhead")).with_file_name("bulkhead-vm");
        if !beside.exists() {
            eprintln!(
                "skipped: {} is missing; build it first: cargo build --profile ci -p bulkhead_vm",
                beside.display()
            );
            return None;
        }
        Some(Lab { folder: tempfile::tempdir().unwrap() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
        command.arg("disk").args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    fn disk(&self, arguments: &[&str]) -> Outcome {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Outcome { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs a command that must succeed.
    #[track_caller]
    fn done(&self, arguments: &[&str]) -> Outcome {
        let outcome = self.disk(arguments);
        assert_eq!(outcome.code, 0, "{arguments:?}: {}{}", outcome.out, outcome.err);
        outcome
    }

    /// Runs a command that must fail, with this code and with all of these words.
    #[track_caller]
    fn fails(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let outcome = self.disk(arguments);
        let text = format!("{arguments:?}: {} {}{}", outcome.code, outcome.out, outcome.err);
        assert_eq!(outcome.code, code, "{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is missing in {text}");
        }
    }

    /// A raw disk with data at its begin, in the middle and at its end, and holes between.
    fn raw(&self, name: &str) -> Vec<u8> {
        let mut content = vec![0; SIZE as usize];
        for (start, len) in [(0, 3 << 20), (10 << 20, 1 << 20), (SIZE as usize - 4096, 4096)] {
            fill(&mut content[start..start + len], start as u64 + 1);
        }
        let file = std::fs::File::create(self.path(name)).unwrap();
        file.set_len(SIZE).unwrap();
        for chunk in
            (0..content.len()).step_by(4096).filter(|at| content[*at..*at + 4096].iter().any(|byte| *byte != 0))
        {
            file.write_all_at(&content[chunk..chunk + 4096], chunk as u64).unwrap();
        }
        content
    }

    /// Runs another program here; it must succeed. `None`, with the reason, if it is not installed.
    #[track_caller]
    fn tool(&self, program: &str, arguments: &[&str]) -> Option<String> {
        let output = match Command::new(program).args(arguments).current_dir(self.folder.path()).output() {
            Ok(output) => output,
            Err(error) => {
                eprintln!("skipped: {program}: {error}");
                return None;
            }
        };
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program} {arguments:?}: {text}");
        Some(text)
    }

    /// Whether QEMU finds the same bytes in both.
    #[track_caller]
    fn qemu_compares(&self, a: &str, b: &str) {
        self.tool("qemu-img", &["compare", "-f", qemu_format(a), "-F", qemu_format(b), a, b]);
    }

    /// The names in the folder.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Starts a command that runs on, and waits for the first line that it prints.
    #[track_caller]
    fn start(&self, arguments: &[&str]) -> Running {
        let mut child = self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let running = Running { child: Some(child), _lines: lines, line };
        if running.line.is_empty() {
            let (status, text) = running.end();
            panic!("{arguments:?} ended with {status}: {text}");
        }
        running
    }
}

impl Drop for Lab {
    /// A mount that a failed test left would keep the folder.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = Command::new("fusermount3").args(["-u", "-z", "-q"]).arg(self.path("m")).status();
        }
    }
}

/// A command that runs on. Dropped, it is ended with SIGTERM.
struct Running {
    child: Option<Child>,
    /// Kept, so that printing does not fail.
    _lines: BufReader<std::process::ChildStdout>,
    line: String,
}

impl Running {
    fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    fn signal(&self, signal: &str) {
        signal_process(self.pid(), signal);
    }

    /// Waits for its end; returns what it said on standard error.
    fn end(mut self) -> (ExitStatus, String) {
        let output = self.child.take().unwrap().wait_with_output().unwrap();
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal_process(child.id(), "TERM");
            let _ = child.wait();
        }
    }
}

fn signal_process(pid: u32, signal: &str) {
    // Gone already is fine.
    let _ = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).stderr(Stdio::null()).status();
}

/// The image process of a command.
fn image_process(pid: u32) -> u32 {
    let children = format!("/proc/{pid}/task/{pid}/children");
    until("the image process starts", || std::fs::read_to_string(&children).ok()?.split(' ').next()?.parse().ok())
}

/// Looks until there is something, for at most half a minute.
#[track_caller]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..30_000 {
        if let Some(found) = look() {
            return found;
        }
        #[allow(clippy::disallowed_methods, reason = "watching other processes from outside")]
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("{what}: not within 30 s");
}

/// Bytes that no compression or zero detection makes less of.
fn fill(bytes: &mut [u8], seed: u64) {
    let mut state = seed | 1;
    for chunk in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let len = chunk.len();
        chunk.copy_from_slice(&state.to_le_bytes()[..len]);
    }
}

fn qemu_format(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("vhd") => "vpc",
        Some("vhdx") => "vhdx",
        Some("qcow2") => "qcow2",
        _ => "raw",
    }
}
