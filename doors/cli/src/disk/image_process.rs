//! One job in an image process: starts it, answers its questions, shows its progress, passes Ctrl-C on.

use crate::exit::Failure;
use anyhow::{Context, anyhow};
use bulkhead_linux::{SeqPacket, Signal, SignalFd};
use bulkhead_worker_protocol::image::{FromImage, ImageJob, ToImage};
use bulkhead_worker_protocol::{Channel, Problem, ProblemKind};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::Value;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

/// A job and its files, in the order in which the job names them.
pub struct Job {
    /// What to do.
    pub job: ImageJob,
    /// Files by index.
    pub descriptors: Vec<OwnedFd>,
    /// Parents are opened for writing (merging).
    pub writable_parents: bool,
}

/// Runs the job to its end.
///
/// # Errors
/// What the process says, as the exit code that fits.
pub fn run(job: Job) -> Result<Value, Failure> {
    let signals = SignalFd::new(&[Signal::Terminate, Signal::Interrupt, Signal::Hangup]);
    let signals = signals.context("cannot take signals")?;
    let own = std::env::current_exe().context("cannot find this executable")?;
    let program = own.with_file_name("bulkhead-vm");
    let (ours, theirs) = SeqPacket::pair().context("cannot make a socket")?;
    let mut child = Command::new(&program)
        .arg("--image")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}; it belongs beside this program", program.display()))?;
    let channel = Channel::new(ours);
    let result = converse(&channel, &job, &signals);
    // Its socket closes with ours, and it ends then.
    drop(channel);
    let status = child.wait().context("cannot wait for the image process")?;
    match result? {
        Some(result) => result,
        None => Err(anyhow!("the image process ended unexpectedly ({status}); nothing was kept of a new image").into()),
    }
}

type Talk = Channel<ToImage, FromImage>;

/// Speaks until the job has a result; `None` if the process is gone before.
fn converse(channel: &Talk, job: &Job, signals: &SignalFd) -> Result<Option<Result<Value, Failure>>, Failure> {
    let descriptors: Vec<BorrowedFd<'_>> = job.descriptors.iter().map(AsFd::as_fd).collect();
    let started = channel.send(&ToImage::Run(Box::new(job.job.clone())), &descriptors);
    started.context("cannot hand the job to the image process")?;
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    loop {
        let mut fds = [PollFd::new(channel, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(anyhow!(error).context("cannot wait for the image process").into()),
        }
        let [said, signalled] = fds.map(|fd| !fd.revents().is_empty());
        if signalled && signals.take().context("cannot take signals")?.is_some() {
            // Gone already: its last word is read below.
            let _ = channel.send(&ToImage::Cancel, &[]);
        }
        if !said {
            continue;
        }
        match channel.receive().context("cannot understand the image process")?.map(|packet| packet.message) {
            None => return Ok(None),
            Some(FromImage::Progress { done, total }) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Some(FromImage::NeedParent { candidates, .. }) => answer(channel, &candidates, job.writable_parents)?,
            Some(FromImage::Finished { result }) => {
                bar.finish_and_clear();
                return Ok(Some(Ok(result)));
            }
            Some(FromImage::Failed(problem)) => {
                bar.finish_and_clear();
                return Ok(Some(Err(failure(problem))));
            }
        }
    }
}

/// Opens the first candidate that is there. What the user may open, the user may open through a chain.
fn answer(channel: &Talk, candidates: &[String], writable: bool) -> Result<(), Failure> {
    let Some(path) = candidates.iter().map(Path::new).find(|path| path.is_file()) else {
        let none = ToImage::Parent { path: None };
        return Ok(channel.send(&none, &[]).context("cannot answer the image process")?);
    };
    let file = OpenOptions::new().read(true).write(writable).open(path);
    let file = file.map_err(|error| Failure::of(error, format!("cannot open the parent {}", path.display())))?;
    let found = ToImage::Parent { path: Some(path.to_string_lossy().into_owned()) };
    Ok(channel.send(&found, &[file.as_fd()]).context("cannot pass the parent on")?)
}

fn failure(problem: Problem) -> Failure {
    match problem.kind {
        ProblemKind::Invalid | ProblemKind::Unsupported => Failure::Usage(problem.message),
        ProblemKind::WrongState => Failure::Conflict(problem.message),
        ProblemKind::Unavailable | ProblemKind::Failed => Failure::Failed(anyhow!(problem.message)),
    }
}
