//! Asking `bulkhead-net-helper` for interfaces of the host.

use anyhow::{Context, Result, anyhow, bail};
use bulkhead_linux::SeqPacket;
use bulkhead_switch_protocol::{HelperAnswer, HelperRequest};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// How long it may take: moving addresses waits for gateways.
const TIMEOUT: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Where the helper listens.
#[derive(Clone, Debug)]
pub struct Helper(pub PathBuf);

impl Helper {
    /// Asks for something; the descriptor that came with the answer.
    ///
    /// # Errors
    /// It does not run, refuses, or failed.
    pub fn ask(&self, request: &HelperRequest) -> Result<Option<OwnedFd>> {
        let socket = SeqPacket::connect(&self.0).with_context(|| {
            format!("cannot reach bulkhead-net-helper at {}: start it, with privileges", self.0.display())
        })?;
        socket.send(&serde_json::to_vec(request)?, &[])?;
        if poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&TIMEOUT))? == 0 {
            bail!("bulkhead-net-helper does not answer");
        }
        let answer = socket.receive()?.context("bulkhead-net-helper closed the connection")?;
        let result: HelperAnswer = serde_json::from_slice(&answer.bytes)?;
        result.map_err(|message| anyhow!(message))?;
        Ok(answer.descriptors.into_iter().next())
    }

    /// Asks for something that is opened.
    ///
    /// # Errors
    /// As for [`ask`](Self::ask).
    pub fn open(&self, request: &HelperRequest) -> Result<OwnedFd> {
        self.ask(request)?.context("bulkhead-net-helper answered without a descriptor")
    }
}
