//! A non-blocking stream socket on an I/O loop.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};

use bulkhead_block_io::IoContext;
use bulkhead_disk::{Buffer, Notify};
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
    queue: VecDeque<Chunk>,
    /// Bytes of the first entry that are sent.
    sent: usize,
    bytes: usize,
    /// Messages since the last attempt to send.
    fresh: usize,
    /// The kernel took no more; [`Socket::run_output`] waits until it does.
    blocked: bool,
    failed: bool,
    closing: bool,
}

/// Bytes in one piece.
enum Chunk {
    Bytes(Vec<u8>),
    /// What a disk read, sent from where it is.
    Data(Buffer),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Data(buffer) => buffer.as_slice().unwrap_or_default(),
        }
    }
}

impl Output {
    fn push(&mut self, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        // Small replies travel together.
        match self.queue.back_mut() {
            Some(Chunk::Bytes(last)) if last.len() + bytes.len() <= 4096 => last.extend(bytes),
            _ => self.queue.push_back(Chunk::Bytes(bytes)),
        }
    }
}

/// Output that may wait before [`Socket::room`] makes its caller wait.
const FULL: usize = 8 << 20;
const SEGMENTS: usize = 64;
/// Messages that are sent without waiting for more: the peer works on them while we work on its next requests.
const EAGER: usize = 8;

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

    /// Queues a message; [`Self::run_output`] sends it unless it goes at once.
    pub fn send(&self, message: Vec<u8>) {
        self.send_with(message, Buffer::empty());
    }

    /// Queues a message that ends with `data`.
    pub fn send_with(&self, message: Vec<u8>, data: Buffer) {
        let mut output = self.output.borrow_mut();
        if output.failed || message.is_empty() {
            return;
        }
        output.push(message);
        if !data.is_empty() && data.as_slice().is_some() {
            output.bytes += data.len();
            output.queue.push_back(Chunk::Data(data));
        } else if !data.is_empty() {
            output.push(data.to_vec());
        }
        output.fresh += 1;
        let now = output.fresh >= EAGER && !output.blocked;
        drop(output);
        if now {
            // A failure shows again in `run_output`.
            let _ = self.send_some();
        }
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
                Err(Errno::AGAIN) => {
                    self.context.writable(self.fd.as_fd()).await;
                    self.output.borrow_mut().blocked = false;
                }
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
        output.fresh = 0;
        let mut slices = Vec::with_capacity(SEGMENTS.min(output.queue.len()));
        for (index, chunk) in output.queue.iter().take(SEGMENTS).enumerate() {
            let skip = if index == 0 { output.sent } else { 0 };
            slices.push(IoSlice::new(&chunk.bytes()[skip..]));
        }
        let sent = sendmsg(&self.fd, &slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL);
        drop(slices);
        output.blocked = sent == Err(Errno::AGAIN);
        let mut left = sent?;
        output.bytes = output.bytes.saturating_sub(left);
        left += output.sent;
        while let Some(first) = output.queue.front().filter(|first| first.bytes().len() <= left) {
            left -= first.bytes().len();
            output.queue.pop_front();
        }
        output.sent = left;
        Ok(())
    }
}
