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

/// Names in the answer to one look into a folder; a message has its limit.
const MOST_IMAGES: usize = 400;
/// What virtual disks that have parents are called.
const EXTENSIONS: [&str; 4] = ["vhd", "avhd", "vhdx", "avhdx"];

/// A job and its files, in the order in which the job names them.
pub struct Job {
    /// What to do.
    pub job: ImageJob,
    /// Files by index.
    pub descriptors: Vec<OwnedFd>,
    /// Parents may be opened for writing (merging).
    pub writable_parents: bool,
}

/// Takes part in a job that needs more than files.
pub trait Attendant {
    /// Mounts what the job is about to serve: a mounted `/dev/fuse`.
    ///
    /// # Errors
    /// It cannot be mounted; the job ends then.
    fn mount(&mut self, _what: &Value) -> Result<OwnedFd, Failure> {
        Err(Failure::Usage("this job mounts nothing".into()))
    }

    /// A signal came. True: it is dealt with; false: the job is cancelled.
    fn interrupted(&mut self) -> bool {
        false
    }
}

/// Needs nothing.
struct Nobody;

impl Attendant for Nobody {}

/// Runs the job to its end.
///
/// # Errors
/// What the process says, as the exit code that fits.
pub fn run(job: Job) -> Result<Value, Failure> {
    run_attended(job, &mut Nobody)
}

/// Runs the job to its end, with somebody who helps.
///
/// # Errors
/// As for [`run`].
pub fn run_attended(job: Job, attendant: &mut dyn Attendant) -> Result<Value, Failure> {
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
    let mut talk = Talk { channel: Channel::new(ours), signals, writable_parents: job.writable_parents, attendant };
    let result = talk.converse(job);
    // Its socket closes with ours, and it ends then.
    drop(talk);
    let status = child.wait().context("cannot wait for the image process")?;
    match result? {
        Some(result) => result,
        None => Err(anyhow!("the image process ended unexpectedly ({status}); nothing was kept of a new image").into()),
    }
}

/// The conversation with one process.
struct Talk<'a> {
    channel: Channel<ToImage, FromImage>,
    signals: SignalFd,
    writable_parents: bool,
    attendant: &'a mut dyn Attendant,
}

impl Talk<'_> {
    /// Speaks until the job has a result; `None` if the process is gone before.
    fn converse(&mut self, job: Job) -> Result<Option<Result<Value, Failure>>, Failure> {
        let descriptors: Vec<BorrowedFd<'_>> = job.descriptors.iter().map(AsFd::as_fd).collect();
        let started = self.channel.send(&ToImage::Run(Box::new(job.job)), &descriptors);
        started.context("cannot hand the job to the image process")?;
        // The process alone holds them now: their locks end with it.
        drop(job.descriptors);
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        loop {
            if !self.wait()? {
                continue;
            }
            match self.channel.receive().context("cannot understand the image process")?.map(|packet| packet.message) {
                None => return Ok(None),
                Some(FromImage::Progress { done, total }) => {
                    bar.set_length(total);
                    bar.set_position(done);
                }
                Some(FromImage::NeedParent { candidates, writable, .. }) => self.pass_parent(&candidates, writable)?,
                Some(FromImage::NeedFolder { folder }) => {
                    let images = images_in(Path::new(&folder));
                    self.answer(&ToImage::Folder { images }, &[])?;
                }
                Some(FromImage::NeedMount { result }) => {
                    let device = self.attendant.mount(&result)?;
                    self.answer(&ToImage::Mounted, &[device.as_fd()])?;
                }
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

    /// Waits for the process or a signal; true if the process has something to say.
    fn wait(&mut self) -> Result<bool, Failure> {
        let mut fds = [PollFd::new(&self.channel, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(anyhow!(error).context("cannot wait for the image process").into()),
        }
        let [said, signalled] = fds.map(|fd| !fd.revents().is_empty());
        let signalled = signalled && self.signals.take().context("cannot take signals")?.is_some();
        if signalled && !self.attendant.interrupted() {
            // Gone already: its last word is read next.
            let _ = self.channel.send(&ToImage::Cancel, &[]);
        }
        Ok(said)
    }

    fn answer(&self, message: &ToImage, descriptors: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        Ok(self.channel.send(message, descriptors).context("cannot answer the image process")?)
    }

    /// Opens the first candidate that is there. What the user may open, the user may open through a chain.
    fn pass_parent(&self, candidates: &[String], writable: bool) -> Result<(), Failure> {
        let Some(path) = candidates.iter().map(Path::new).find(|path| path.is_file()) else {
            return self.answer(&ToImage::Parent { path: None }, &[]);
        };
        let file = OpenOptions::new().read(true).write(writable && self.writable_parents).open(path);
        let file = file.map_err(|error| Failure::of(error, format!("cannot open the parent {}", path.display())))?;
        self.answer(&ToImage::Parent { path: Some(path.to_string_lossy().into_owned()) }, &[file.as_fd()])
    }
}

/// The virtual disks in a folder; `None` if it cannot be read.
fn images_in(folder: &Path) -> Option<Vec<String>> {
    let entries = std::fs::read_dir(folder).ok()?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_image = |path: &Path| {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("").to_ascii_lowercase();
        EXTENSIONS.contains(&extension.as_str()) && path.is_file()
    };
    let images = paths.filter(|path| is_image(path)).filter_map(|path| path.to_str().map(str::to_owned));
    // Paths are at most a message's length together.
    let mut room = 32 << 10;
    let fitting = images.take_while(|image| {
        room -= i64::try_from(image.len() + 8).unwrap_or(i64::MAX);
        room > 0
    });
    Some(fitting.take(MOST_IMAGES).collect())
}

fn failure(problem: Problem) -> Failure {
    match problem.kind {
        ProblemKind::Invalid | ProblemKind::Unsupported => Failure::Usage(problem.message),
        ProblemKind::WrongState => Failure::Conflict(problem.message),
        ProblemKind::NotFound => Failure::NotFound(anyhow!(problem.message)),
        ProblemKind::Refused => Failure::Refused(anyhow!(problem.message)),
        ProblemKind::Unavailable | ProblemKind::Failed => Failure::Failed(anyhow!(problem.message)),
    }
}
