//! The image process, `bulkhead-vm --image`: takes one job and its files over a socket, does it, and ends.
//!
//! | module | what |
//! |---|---|
//! | `starter` | the other side: asking for parents, progress, cancelling |
//! | `files` | images from descriptors, chains from what the starter opens |
//! | `jobs` | one function per job |
//! | `mount` | disks and partitions as files |
//! | `bitmaps` | the job on the bitmaps of a change tracking file |
//! | `serve` | the job that serves a disk over NBD, with limits and changed-block tracking |
//! | `report` | what the jobs found, as JSON |
//!
//! One thread runs the I/O loop and the job; another reads the socket, so that a cancel is heard at any time.

mod bitmaps;
mod files;
mod jobs;
mod mount;
mod report;
mod serve;
mod starter;

use bulkhead_block_io::{IoLoop, IoMode};
use bulkhead_disk::{DiskError, ErrorKind};
use bulkhead_linux::SeqPacket;
use bulkhead_worker_protocol::image::{FromImage, ToImage};
use bulkhead_worker_protocol::{Channel, ChannelError, Problem, ProblemKind};

use crate::starter::Starter;

/// Serves the one job that comes over `socket`, and returns when it is done or the starter is gone.
///
/// # Errors
/// The socket fails, or the first message is no job. A job that fails is reported to the starter, and no error here.
pub fn run(socket: SeqPacket) -> Result<(), ChannelError> {
    let channel: Channel<FromImage, ToImage> = Channel::new(socket);
    let Some(packet) = channel.receive()? else { return Ok(()) };
    let starter = Starter::new(channel);
    let ToImage::Run(job) = packet.message else {
        return starter.send(&FromImage::Failed(problem("the first message must be a job".into())));
    };
    let listener = starter.clone();
    #[allow(clippy::disallowed_methods, reason = "a shell: this thread only waits for the starter's words")]
    std::thread::spawn(move || listener.listen());
    let result = IoLoop::new(IoMode::Auto).and_then(|io| {
        let (context, asked) = (io.context(), starter.clone());
        io.run_until(async move { jobs::run(*job, packet.descriptors, context, asked).await })?
    });
    let said = starter.send(&match result {
        Ok(result) => FromImage::Finished { result },
        Err(error) => FromImage::Failed(describe(&error)),
    });
    match said {
        // The starter left before the end: nobody is there to hear it.
        Err(ChannelError::Socket(_)) => Ok(()),
        said => said,
    }
}

fn problem(message: String) -> Problem {
    Problem { kind: ProblemKind::Invalid, message }
}

/// A disk's error with everything that its sources say.
fn describe(error: &DiskError) -> Problem {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    let kind = match error.kind() {
        ErrorKind::Unsupported => ProblemKind::Unsupported,
        ErrorKind::InvalidInput | ErrorKind::OutOfRange | ErrorKind::Misaligned => ProblemKind::Invalid,
        ErrorKind::Locked | ErrorKind::WrongState => ProblemKind::WrongState,
        ErrorKind::NotFound | ErrorKind::ParentMissing => ProblemKind::NotFound,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnly => ProblemKind::Refused,
        _ => ProblemKind::Failed,
    };
    Problem { kind, message }
}
