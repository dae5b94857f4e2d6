//! For tests: a QEMU whose processor stands still, driven register by register through its test protocol, so that random
//! sequences of accesses can be compared with our devices. Its clock stands still too, so what depends on time is not compared.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A QEMU `pc` machine with a serial port and nothing else than what is on the board.
pub struct Qemu {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Qemu {
    /// Starts QEMU. `None`, with the reason on standard error, when it is not installed or does not answer.
    pub fn start() -> Option<Qemu> {
        Qemu::start_with(&[])
    }

    /// Like [`Qemu::start`], with devices that these arguments add.
    pub fn start_with(devices: &[&str]) -> Option<Qemu> {
        let arguments = "-M pc,accel=tcg -S -display none -nodefaults -serial null -rtc base=2026-11-24T20:34:20,clock=vm \
                         -qtest stdio -qtest-log none";
        let child = Command::new("qemu-system-x86_64")
            .args(arguments.split_whitespace())
            .args(devices)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: qemu-system-x86_64 cannot be started: {error}");
                return None;
            }
        };
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else { return None };
        let mut qemu = Qemu { child, input, output: BufReader::new(output) };
        if qemu.ask("inb 0x21").is_none() {
            eprintln!("skipped: qemu-system-x86_64 does not answer its test protocol");
            return None;
        }
        Some(qemu)
    }

    /// IN of 1, 2 or 4 bytes.
    ///
    /// # Panics
    /// When QEMU has ended.
    pub fn port_read(&mut self, port: u16, size: u8) -> u32 {
        self.value(&format!("in{} {port:#x}", letter(size))) as u32
    }

    /// OUT of 1, 2 or 4 bytes.
    ///
    /// # Panics
    /// When QEMU has ended.
    pub fn port_write(&mut self, port: u16, size: u8, value: u32) {
        self.value(&format!("out{} {port:#x} {value:#x}", letter(size)));
    }

    /// A read of 1, 2, 4 or 8 bytes of memory or memory-mapped registers.
    ///
    /// # Panics
    /// When QEMU has ended.
    pub fn memory_read(&mut self, address: u64, size: u8) -> u64 {
        self.value(&format!("read{} {address:#x}", letter(size)))
    }

    /// A write of 1, 2, 4 or 8 bytes.
    ///
    /// # Panics
    /// When QEMU has ended.
    pub fn memory_write(&mut self, address: u64, size: u8, value: u64) {
        self.value(&format!("write{} {address:#x} {value:#x}", letter(size)));
    }

    fn value(&mut self, request: &str) -> u64 {
        self.ask(request).unwrap_or_else(|| panic!("QEMU did not answer {request:?}"))
    }

    fn ask(&mut self, request: &str) -> Option<u64> {
        writeln!(self.input, "{request}").ok()?;
        let mut line = String::new();
        loop {
            line.clear();
            if self.output.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("OK"), None) => return Some(0),
                (Some("OK"), Some(value)) => return u64::from_str_radix(value.trim_start_matches("0x"), 16).ok(),
                (Some("IRQ"), _) => {}
                _ => return None,
            }
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing is left behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn letter(size: u8) -> char {
    match size {
        1 => 'b',
        2 => 'w',
        4 => 'l',
        _ => 'q',
    }
}

/// A small generator of repeatable random numbers for choosing accesses.
pub struct Choice(u64);

impl Choice {
    /// The same seed chooses the same.
    pub fn new(seed: u64) -> Choice {
        Choice(seed | 1)
    }

    /// Any number.
    pub fn number(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as u32
    }

    /// One of `all`.
    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.number() as usize % all.len()]
    }
}

/// What was done so far, for the message of a failure.
#[derive(Default)]
pub struct Log(Vec<String>);

impl Log {
    /// Notes a step.
    pub fn note(&mut self, step: String) {
        self.0.push(step);
    }

    /// Compares two answers.
    ///
    /// # Panics
    /// When they differ, with the last steps.
    #[track_caller]
    pub fn compare(&mut self, what: String, ours: u64, qemu: u64) {
        if ours != qemu {
            let last = &self.0[self.0.len().saturating_sub(30)..];
            panic!("{what}: ours {ours:#x}, QEMU {qemu:#x}, after\n  {}", last.join("\n  "));
        }
        self.note(format!("{what} = {ours:#x}"));
    }
}
