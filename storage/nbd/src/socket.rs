//! A non-blocking stream socket on an I/O loop.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};

use bulkhead_block_io::IoContext;
use bulkhead_disk::Notify;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};

/// The socket, its input buffer, and its queue of output.
pub struct Socket {
    fd: OwnedFd,
    context: IoContext,
    output: RefCell<Output>,
    /// Output was added, sent, or will never be.
    changed: Notify,
}

#[derive(Default)]
struct Output {
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first entry that are sent.
    sent: usize,
    bytes: usize,
    failed: bool,
    closing: bool,
}

/// Output that may wait before [`Socket::room`] makes its caller wait.
const FULL: usize = 8 << 20;
const SEGMENTS: usize = 64;

impl Socket {
    /// Takes over a connected stream socket.
    pub fn new(fd: OwnedFd, context: IoContext) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd, context, output: RefCell::default(), changed: Notify::default() })
    }

    /// Receives at least one byte; 0 = the peer closed.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(&self.fd, &mut *buffer, RecvFlags::empty()) {
                Ok((count, _)) => return Ok(count),
                Err(Errno::AGAIN) => self.context.readable(self.fd.as_fd()).await,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Fills the buffer; `UnexpectedEof` if the peer closes before.
    pub async fn receive_exact(&self, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.receive(&mut buffer[filled..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(())
    }

    /// Queues bytes; [`Self::run_output`] sends them.
    pub fn send(&self, bytes: Vec<u8>) {
        let mut output = self.output.borrow_mut();
        if output.failed || bytes.is_empty() {
            return;
        }
        output.bytes += bytes.len();
        // Small replies travel together.
        match output.queue.back_mut() {
            Some(last) if last.len() + bytes.len() <= 4096 => last.extend(bytes),
            _ => output.queue.push_back(bytes),
        }
        drop(output);
        self.changed.notify_all();
    }

    /// Waits while much output is queued: the peer does not read as fast as it asks.
    pub async fn room(&self) {
        while self.is_full() {
            self.changed.wait().await;
        }
    }

    fn is_full(&self) -> bool {
        let output = self.output.borrow();
        !output.failed && output.bytes >= FULL
    }

    /// Ends [`Self::run_output`] once everything is sent.
    pub fn finish_output(&self) {
        self.output.borrow_mut().closing = true;
        self.changed.notify_all();
    }

    /// Sends what is queued until [`Self::finish_output`] or an error.
    pub async fn run_output(&self) -> io::Result<()> {
        loop {
            let (is_empty, closing) = {
                let output = self.output.borrow();
                (output.queue.is_empty(), output.closing)
            };
            if is_empty {
                if closing {
                    return Ok(());
                }
                self.changed.wait().await;
                continue;
            }
            match self.send_some() {
                Ok(()) => self.changed.notify_all(),
                Err(Errno::AGAIN) => self.context.writable(self.fd.as_fd()).await,
                Err(Errno::INTR) => {}
                Err(error) => {
                    self.fail();
                    return Err(error.into());
                }
            }
        }
    }

    /// Gives up on the connection: both directions end.
    pub fn fail(&self) {
        let mut output = self.output.borrow_mut();
        *output = Output { failed: true, closing: true, ..Output::default() };
        drop(output);
        // Already disconnected is what we want.
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
        self.changed.notify_all();
    }

    fn send_some(&self) -> Result<(), Errno> {
        let mut output = self.output.borrow_mut();
        let sent_before = output.sent;
        let mut slices = Vec::with_capacity(SEGMENTS.min(output.queue.len()));
        for (index, bytes) in output.queue.iter().take(SEGMENTS).enumerate() {
            slices.push(IoSlice::new(if index == 0 { &bytes[sent_before..] } else { bytes }));
        }
        let mut left = sendmsg(&self.fd, &slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?;
        output.bytes = output.bytes.saturating_sub(left);
        left += sent_before;
        while let Some(first) = output.queue.front().filter(|first| first.len() <= left) {
            left -= first.len();
            output.queue.pop_front();
        }
        output.sent = left;
        Ok(())
    }
}
