//! What the far end of a guest's connection can be: a stream of the host, or a service of the gateway.

use crate::host::Stream;
use crate::http::HttpConnection;
use std::io::{self, ErrorKind};

/// A far end.
pub(crate) enum FarEnd<S> {
    Host(S),
    Http(Box<HttpConnection>),
    Dns(Box<DnsConnection>),
}

/// Bytes of questions that are kept unread; a longest message and its length.
const LONGEST: usize = 2 + 65_535;
/// Questions of a connection that wait at the same time.
const MOST_WAITING: u32 = 16;

/// DNS over TCP: messages with their lengths in front (RFC 7766).
pub(crate) struct DnsConnection {
    /// By which answers find it.
    pub number: u64,
    input: Vec<u8>,
    output: Vec<u8>,
    waiting: u32,
    ended: bool,
}

impl DnsConnection {
    pub fn new(number: u64) -> DnsConnection {
        DnsConnection { number, input: Vec::new(), output: Vec::new(), waiting: 0, ended: false }
    }

    /// The next whole question.
    pub fn question(&mut self) -> Option<Vec<u8>> {
        if self.waiting >= MOST_WAITING {
            return None;
        }
        let len = usize::from(u16::from_be_bytes(*self.input.first_chunk()?));
        let question = self.input.get(2..2 + len)?.to_vec();
        self.input.drain(..2 + len);
        self.waiting += 1;
        Some(question)
    }

    /// Sends an answer, or counts a question as one that gets none.
    pub fn answer(&mut self, answer: Option<&[u8]>) {
        self.waiting = self.waiting.saturating_sub(1);
        if let Some(answer) = answer {
            self.output.extend((answer.len() as u16).to_be_bytes());
            self.output.extend(answer);
        }
    }
}

impl Stream for DnsConnection {
    fn connected(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(LONGEST.saturating_sub(self.input.len()));
        if taken == 0 && !bytes.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.input.extend(&bytes[..taken]);
        Ok(taken)
    }

    fn peek(&mut self, skip: usize, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.output.get(skip..).unwrap_or_default();
        if rest.is_empty() {
            return if self.ended && self.waiting == 0 { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn consume(&mut self, len: usize) -> io::Result<()> {
        self.output.drain(..len.min(self.output.len()));
        Ok(())
    }

    fn finish(&mut self) {
        self.ended = true;
    }

    fn abort(&mut self) {}
}

impl<S: Stream> FarEnd<S> {
    fn stream(&mut self) -> &mut dyn Stream {
        match self {
            FarEnd::Host(stream) => stream,
            FarEnd::Http(connection) => connection.as_mut(),
            FarEnd::Dns(connection) => connection.as_mut(),
        }
    }
}

impl<S: Stream> Stream for FarEnd<S> {
    fn connected(&mut self) -> io::Result<()> {
        self.stream().connected()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream().write(bytes)
    }

    fn peek(&mut self, skip: usize, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream().peek(skip, buffer)
    }

    fn consume(&mut self, len: usize) -> io::Result<()> {
        self.stream().consume(len)
    }

    fn finish(&mut self) {
        self.stream().finish();
    }

    fn abort(&mut self) {
        self.stream().abort();
    }
}
