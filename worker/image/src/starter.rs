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

type Found = Option<(String, OwnedFd)>;

/// Shared by the job's thread and the one that listens.
#[derive(Clone)]
pub struct Starter(Arc<Shared>);

struct Shared {
    channel: Channel<FromImage, ToImage>,
    cancelled: AtomicBool,
    parents: (Sender<Found>, Receiver<Found>),
}

impl Starter {
    pub fn new(channel: Channel<FromImage, ToImage>) -> Self {
        Self(Arc::new(Shared { channel, cancelled: AtomicBool::new(false), parents: bounded(1) }))
    }

    pub fn send(&self, message: &FromImage) -> std::result::Result<(), ChannelError> {
        self.0.channel.send(message, &[])
    }

    /// Takes what the starter says, until it is gone; that cancels the job too.
    pub fn listen(&self) {
        while let Ok(Some(packet)) = self.0.channel.receive() {
            match packet.message {
                ToImage::Parent { path } => {
                    let found = path.and_then(|path| Some((path, packet.descriptors.into_iter().next()?)));
                    // Nobody waits for an answer that was not asked for.
                    let _ = self.0.parents.0.try_send(found);
                }
                ToImage::Cancel => self.0.cancelled.store(true, Ordering::Relaxed),
                ToImage::Run(_) => {}
            }
        }
        self.0.cancelled.store(true, Ordering::Relaxed);
        let _ = self.0.parents.0.try_send(None);
    }

    /// Asks for a parent and waits for the answer. The loop has nothing else to do meanwhile.
    pub fn parent(&self, child: &str, candidates: Vec<String>) -> Result<Found> {
        let gone = || DiskError::new(ErrorKind::Cancelled, "ask for the parent", "the starter is gone");
        let child = child.to_owned();
        self.send(&FromImage::NeedParent { child, candidates }).map_err(|error| gone().with_source(error))?;
        self.0.parents.1.recv().map_err(|error| gone().with_source(error))
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
