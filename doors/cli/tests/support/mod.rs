//! A guest under test: `bulkhead boot` with its console as pipes.
#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests drive real processes in real time")]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The program under test.
pub fn bulkhead() -> Command {
    Command::new(env!("CARGO_BIN_EXE_bulkhead"))
}

/// Whether the worker stands beside it (`cargo test` of this crate alone does not build it).
pub fn worker_is_there() -> bool {
    let there = Path::new(env!("CARGO_BIN_EXE_bulkhead")).with_file_name("bulkhead-vm").exists();
    if !there {
        eprintln!("skipped: bulkhead-vm is not built; run `cargo build --profile ci --bins` first");
    }
    there
}

/// A file of a guest that `cargo xtask guests` makes.
pub fn guest_file(path: &str) -> Option<PathBuf> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests").join(path);
    if !file.exists() {
        eprintln!("skipped: {path} is not made; run `cargo xtask guests`");
        return None;
    }
    Some(file)
}

/// Whether `cargo xtask test --long` runs this.
pub fn is_long() -> bool {
    std::env::var_os("BULKHEAD_LONG").is_some()
}

/// The content of a stats file.
pub fn stats(file: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// A running guest.
pub struct Guest {
    child: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    /// Everything that the guest has printed.
    pub text: String,
    /// How much of it has been looked at.
    seen: usize,
}

impl Guest {
    /// Starts `bulkhead boot` with these arguments.
    pub fn boot<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Guest {
        Guest::boot_with_errors(arguments, Stdio::inherit())
    }

    /// As [`Guest::boot`], with what is meant for people written to `errors`.
    pub fn boot_with_errors<S: AsRef<std::ffi::OsStr>>(
        arguments: impl IntoIterator<Item = S>,
        errors: impl Into<Stdio>,
    ) -> Guest {
        let mut command = bulkhead();
        command.arg("boot").args(arguments).stderr(errors);
        Guest::start(command)
    }

    /// Starts `bulkhead boot`, arguments and all.
    pub fn start(mut command: Command) -> Guest {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, mut console) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = console.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Guest { child, input, output, text: String::new(), seen: 0 }
    }

    /// Waits until the guest has printed `wanted` behind what was waited for before.
    pub fn expect(&mut self, wanted: &str, seconds: u64) {
        assert!(self.sees(wanted, seconds), "no {wanted:?} in {seconds} s; the guest printed:\n{}", self.tail());
    }

    /// Whether the guest prints `wanted` in time.
    pub fn sees(&mut self, wanted: &str, seconds: u64) -> bool {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(at) = self.text[self.seen..].find(wanted) {
                self.seen += at + wanted.len();
                return true;
            }
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => panic!("the VM ended before {wanted:?}:\n{}", self.tail()),
            }
        }
    }

    /// Waits until the terminal shows what is wanted, and returns what it shows then.
    pub fn expect_screen(&mut self, seconds: u64, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut screen = Screen::default();
        loop {
            screen.print(&self.text[self.seen..]);
            self.seen = self.text.len();
            let shown = screen.text();
            if wanted(&shown) {
                return shown;
            }
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("{error} after {seconds} s at most; the terminal shows:\n{shown}"),
            }
        }
    }

    /// Whether the VM ends in time without being asked.
    pub fn ends_by_itself(&mut self, seconds: u64) -> bool {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => return error == RecvTimeoutError::Disconnected,
            }
        }
    }

    /// Types.
    pub fn send(&mut self, text: &str) {
        self.input.write_all(text.as_bytes()).unwrap();
        self.input.flush().unwrap();
    }

    /// Has the test initramfs execute a line, and returns what it printed.
    pub fn command(&mut self, line: &str, seconds: u64) -> String {
        let from = self.seen;
        self.send(&format!("{line}\n"));
        self.expect("READY", seconds);
        self.text[from..self.seen].replace('\r', "")
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end.
    pub fn end(mut self, seconds: u64) -> (ExitStatus, String) {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                while let Ok(bytes) = self.output.recv() {
                    self.text.push_str(&String::from_utf8_lossy(&bytes));
                }
                return (status, std::mem::take(&mut self.text));
            }
            match self.output.recv_timeout(Duration::from_millis(20)) {
                Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                // The console is closed, the process not yet gone.
                Err(RecvTimeoutError::Disconnected) => std::thread::yield_now(),
                Err(RecvTimeoutError::Timeout) => {}
            }
            assert!(Instant::now() < end, "the VM did not end in {seconds} s:\n{}", self.tail());
        }
    }

    fn tail(&self) -> &str {
        let mut start = self.text.len().saturating_sub(3000);
        while !self.text.is_char_boundary(start) {
            start += 1;
        }
        &self.text[start..]
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // A failed test leaves no VM behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A terminal that understands as much as is needed to see where programs put their text.
#[derive(Default)]
struct Screen {
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// An escape sequence whose end has not come yet.
    escape: Option<String>,
}

impl Screen {
    fn print(&mut self, text: &str) {
        for c in text.chars() {
            match (self.escape.take(), c) {
                (None, '\x1b') => self.escape = Some(String::new()),
                (None, '\r') => self.column = 0,
                (None, '\n') => self.row += 1,
                (None, c) => self.put(c),
                (Some(sequence), c @ ('[' | '?' | ';' | '0'..='9')) => self.escape = Some(sequence + &c.to_string()),
                (Some(sequence), 'H') => {
                    let mut numbers = sequence.trim_start_matches('[').split(';').map(|word| word.parse().unwrap_or(1));
                    let mut next = || numbers.next().unwrap_or(1usize).clamp(1, 200) - 1;
                    (self.row, self.column) = (next(), next());
                }
                (Some(_), 'J') => self.rows.clear(),
                (Some(_), _) => {}
            }
        }
    }

    fn put(&mut self, c: char) {
        let (row, column) = (self.row.min(199), self.column.min(199));
        if self.rows.len() <= row {
            self.rows.resize(row + 1, Vec::new());
        }
        let line = &mut self.rows[row];
        if line.len() <= column {
            line.resize(column + 1, ' ');
        }
        line[column] = c;
        self.column = column + 1;
    }

    fn text(&self) -> String {
        self.rows.iter().map(|row| row.iter().collect::<String>() + "\n").collect()
    }
}
