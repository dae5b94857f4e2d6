//! A program under measurement: its lines and when they come, and what it is told.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "measuring real time is the purpose here")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A running program.
pub struct Console {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    last: Instant,
}

impl Console {
    /// Starts it.
    pub fn start(mut command: Command) -> Result<Console> {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        let input = child.stdin.take().context("its input is a pipe")?;
        let output = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        Ok(Console { child, input, output, last: Instant::now() })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line, and the seconds since the line before it or since something was sent; `None` at the end.
    pub fn next_line(&mut self) -> Result<Option<(String, f64)>> {
        let mut bytes = Vec::new();
        if self.output.read_until(b'\n', &mut bytes).context("its output cannot be read")? == 0 {
            return Ok(None);
        }
        let lap = std::mem::replace(&mut self.last, Instant::now()).elapsed().as_secs_f64();
        Ok(Some((String::from_utf8_lossy(&bytes).trim().to_owned(), lap)))
    }

    /// Waits for a line with this text; returns the seconds since the start, the line before it was waited for, or what was sent.
    pub fn wait_for(&mut self, wanted: &str) -> Result<f64> {
        let mut seconds = 0.0;
        while let Some((line, lap)) = self.next_line()? {
            seconds += lap;
            if line.contains(wanted) {
                return Ok(seconds);
            }
        }
        bail!("it ended before it printed {wanted}")
    }

    /// Types.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.input.write_all(text.as_bytes()).context("it takes no input")?;
        self.last = Instant::now();
        Ok(())
    }

    /// Asks it to end, as a user with `kill` does.
    pub fn terminate(&mut self) -> Result<()> {
        crate::command::run(Command::new("kill").arg(self.child.id().to_string()))
    }

    /// Waits for its end.
    pub fn end(mut self) -> Result<()> {
        self.child.wait().context("cannot wait for it")?;
        Ok(())
    }
}

/// Lets time pass.
pub fn wait(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}
