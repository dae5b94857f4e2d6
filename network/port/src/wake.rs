//! Waking the other side: a pipe each way.
//!
//! Not eventfds: both sides would share one open file, so that a hostile one could clear its `O_NONBLOCK`, fill the counter, and
//! block the other in the very call that wakes it. The ends of a pipe are two open files, each with its own flags.

use crate::RingError;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Wakes the other side.
#[derive(Debug)]
pub struct WakeSender(OwnedFd);

/// Becomes readable when the other side woke us, and when it is gone.
#[derive(Debug)]
pub struct WakeReceiver(OwnedFd);

/// The two ends of one direction. Neither end ever blocks.
///
/// # Errors
/// Out of descriptors.
pub fn wake_pair() -> io::Result<(WakeSender, WakeReceiver)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    Ok((WakeSender(writer), WakeReceiver(reader)))
}

impl WakeSender {
    /// Wakes it. A pipe that is full has woken it already.
    ///
    /// # Errors
    /// `Gone` when the other side has closed its end.
    pub fn wake(&self) -> Result<(), RingError> {
        loop {
            match rustix::io::write(&self.0, &[1]) {
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE) => return Err(RingError::Gone),
                Err(error) => return Err(RingError::Wake(error.into())),
            }
        }
    }
}

impl WakeReceiver {
    /// Takes the wake-ups, so that it is readable again only after the next.
    ///
    /// # Errors
    /// `Gone` when the other side has closed its end.
    pub fn clear(&self) -> Result<(), RingError> {
        let mut bytes = [0; 64];
        // Once is enough: what is left makes it readable again at once.
        match rustix::io::read(&self.0, &mut bytes) {
            Ok(0) => Err(RingError::Gone),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(RingError::Wake(error.into())),
        }
    }
}

impl AsFd for WakeReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for WakeSender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An end that came from the other process; it must be the non-blocking writing end of a pipe that this side alone uses.
impl From<OwnedFd> for WakeSender {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

/// As for [`WakeSender`], the reading end.
impl From<OwnedFd> for WakeReceiver {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}
