//! `switch capture`: the switch writes into our file until we go.

use super::client::Client;
use crate::exit::Failure;
use anyhow::Context;
use bulkhead_linux::{Signal, SignalFd};
use bulkhead_switch_protocol::Request;
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

/// Captures until a signal, or until the reader of standard output goes.
pub fn run(client: &mut Client, port: String, write: &Path, snap: u32) -> Result<(), Failure> {
    let signals =
        SignalFd::new(&[Signal::Terminate, Signal::Interrupt, Signal::Hangup]).context("cannot take signals")?;
    let file = if write == Path::new("-") {
        File::from(std::io::stdout().as_fd().try_clone_to_owned().context("cannot use standard output")?)
    } else {
        File::create(write).map_err(|error| Failure::of(error, format!("cannot write {}", write.display())))?
    };
    client.ask_with(Request::Capture { port: port.clone(), snap }, &[file.as_fd()])?;
    loop {
        // A pipe whose reader is gone reports an error.
        let mut ready = [PollFd::new(&signals, PollFlags::IN), PollFd::new(&file, PollFlags::empty())];
        match poll(&mut ready, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(anyhow::Error::new(error).context("cannot wait").into()),
        }
        if ready.iter().any(|fd| !fd.revents().is_empty()) {
            client.ask(Request::StopCapture { port })?;
            return Ok(());
        }
    }
}
