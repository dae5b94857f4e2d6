//! The other side of the socket: whoever started the process.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bulkhead_disk::{DiskError, ErrorKind, Result};
use bulkhead_image::Control;
use bulkhead_worker_protocol::image::{FromImage, ToImage};
use bulkhead_worker_protocol::{Channel, ChannelError};
use crossbeam_channel::{Receiver, Sender, bounded};

/// A parent: its path and its file.
pub type Found = Option<(String, OwnedFd)>;

/// What the starter says when it was asked.
enum Answer {
    Parent(Found),
    Folder(Option<Vec<String>>),
    Mounted(Option<OwnedFd>),
    Gone,
}

/// Shared by the job's thread and the one that listens.
#[derive(Clone)]
pub struct Starter(Arc<Shared>);

struct Shared {
    channel: Channel<FromImage, ToImage>,
    cancelled: AtomicBool,
    answers: (Sender<Answer>, Receiver<Answer>),
}

impl Starter {
    pub fn new(channel: Channel<FromImage, ToImage>) -> Self {
        Self(Arc::new(Shared { channel, cancelled: AtomicBool::new(false), answers: bounded(1) }))
    }

    pub fn send(&self, message: &FromImage) -> std::result::Result<(), ChannelError> {
        self.0.channel.send(message, &[])
    }

    /// Takes what the starter says, until it is gone; that cancels the job too.
    pub fn listen(&self) {
        while let Ok(Some(packet)) = self.0.channel.receive() {
            let descriptor = packet.descriptors.into_iter().next();
            let answer = match packet.message {
                ToImage::Parent { path } => Answer::Parent(path.zip(descriptor)),
                ToImage::Folder { images } => Answer::Folder(images),
                ToImage::Mounted => Answer::Mounted(descriptor),
                ToImage::Cancel => {
                    self.0.cancelled.store(true, Ordering::Relaxed);
                    continue;
                }
                ToImage::Run(_) => continue,
            };
            // Nobody waits for an answer that was not asked for.
            let _ = self.0.answers.0.try_send(answer);
        }
        self.0.cancelled.store(true, Ordering::Relaxed);
        let _ = self.0.answers.0.try_send(Answer::Gone);
    }

    /// Asks for a parent and waits for the answer.
    pub fn parent(&self, child: &str, candidates: Vec<String>, writable: bool) -> Result<Found> {
        let action = "ask for the parent";
        match self.ask(action, &FromImage::NeedParent { child: child.to_owned(), candidates, writable })? {
            Answer::Parent(found) => Ok(found),
            _ => Err(gone(action)),
        }
    }

    /// Asks which images are in a folder; `None` if it cannot be read.
    pub fn folder(&self, folder: &str) -> Result<Option<Vec<String>>> {
        let action = "ask for the images beside it";
        match self.ask(action, &FromImage::NeedFolder { folder: folder.to_owned() })? {
            Answer::Folder(images) => Ok(images),
            _ => Err(gone(action)),
        }
    }

    /// Asks to be mounted, and waits for the device.
    pub fn mount(&self, result: serde_json::Value) -> Result<OwnedFd> {
        let action = "mount the disk";
        match self.ask(action, &FromImage::NeedMount { result })? {
            Answer::Mounted(Some(device)) => Ok(device),
            _ => Err(gone(action)),
        }
    }

    /// The loop has nothing else to do meanwhile.
    fn ask(&self, action: &'static str, question: &FromImage) -> Result<Answer> {
        self.send(question).map_err(|error| gone(action).with_source(error))?;
        self.0.answers.1.recv().map_err(|error| gone(action).with_source(error))
    }

    /// Whether the job should stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }

    /// Progress for the starter: sent when a hundredth is done, so that a fast job does not talk more than it works.
    pub fn control(&self) -> StarterControl<'_> {
        StarterControl { starter: self, told: Cell::new(u64::MAX) }
    }
}

fn gone(action: &'static str) -> DiskError {
    DiskError::new(ErrorKind::Cancelled, action, "the starter does not answer")
}

/// See [`Starter::control`].
pub struct StarterControl<'a> {
    starter: &'a Starter,
    told: Cell<u64>,
}

impl Control for StarterControl<'_> {
    fn progress(&self, done: u64, total: u64) -> bool {
        let percent = (u128::from(done) * 100).checked_div(u128::from(total)).unwrap_or(100) as u64;
        if percent != self.told.replace(percent) {
            // A starter that is gone is noticed by the thread that listens.
            let _ = self.starter.send(&FromImage::Progress { done, total });
        }
        !self.starter.is_cancelled()
    }
}
