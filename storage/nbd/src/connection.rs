//! Transmission with one client: requests run side by side, replies go out as they come.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use bulkhead_block_io::IoContext;
use bulkhead_disk::{BlockKind, Buffer, Completion, DiskError, ErrorKind, Notify, Request as DiskRequest, Result};

use crate::NbdError;
use crate::export::ContextExtent;
use crate::negotiation::{Agreement, BASE_ALLOCATION, DEPTH};
use crate::protocol::{
    self, MAX_PAYLOAD, REQUEST_LEN, Request, STATE_HOLE, STATE_ZERO, chunk, command, error, put_chunk, put_simple_reply,
};
use crate::socket::Socket;

/// Bytes of payload that one client may have in flight.
const MOST_BYTES: usize = 128 << 20;
/// Requests that one client may have in flight.
const MOST_REQUESTS: usize = 256;
/// Extents in one answer; the client asks again for the rest.
const MOST_EXTENTS: usize = 16 << 10;
const INPUT: usize = 256 << 10;

/// The session after the handshake.
pub struct Connection {
    agreement: Agreement,
    read_only: bool,
    socket: Rc<Socket>,
    context: IoContext,
    in_flight: Cell<usize>,
    bytes: Cell<usize>,
    freed: Notify,
}

/// Received bytes that are not yet parsed.
struct Input {
    buffer: Vec<u8>,
    range: Range<usize>,
}

impl Connection {
    pub fn new(agreement: Agreement, socket: Rc<Socket>, context: IoContext) -> Rc<Self> {
        let read_only = agreement.export.is_read_only();
        Rc::new(Self {
            agreement,
            read_only,
            socket,
            context,
            in_flight: Cell::new(0),
            bytes: Cell::new(0),
            freed: Notify::default(),
        })
    }

    /// Serves until the client leaves; returns when all its requests are done.
    pub async fn serve(self: Rc<Self>, first: Vec<u8>) -> std::result::Result<(), NbdError> {
        let result = self.clone().receive_requests(first).await;
        while self.in_flight.get() > 0 {
            self.freed.wait().await;
        }
        result
    }

    async fn receive_requests(self: Rc<Self>, first: Vec<u8>) -> std::result::Result<(), NbdError> {
        let mut input = Input::new(first);
        let mut head = [0; REQUEST_LEN];
        while input.fill(&self.socket, &mut head).await? {
            let request =
                Request::parse(&head).ok_or_else(|| NbdError::Protocol("a request without its magic".into()))?;
            if request.command == command::DISCONNECT {
                return Ok(());
            }
            let payload = self.receive_payload(&mut input, &request).await?;
            self.socket.room().await;
            while self.in_flight.get() >= MOST_REQUESTS || self.bytes.get() >= MOST_BYTES {
                self.freed.wait().await;
            }
            self.start(request, payload);
        }
        Ok(())
    }

    /// The data of a write. A length that is out of bounds ends the session: nobody knows where the next request is.
    async fn receive_payload(&self, input: &mut Input, request: &Request) -> std::result::Result<Buffer, NbdError> {
        if request.command != command::WRITE {
            return Ok(Buffer::empty());
        }
        if request.len > MAX_PAYLOAD {
            return Err(NbdError::Protocol(format!("a write of {} bytes; the most are {MAX_PAYLOAD}", request.len)));
        }
        if let Some(bytes) = input.take(request.len as usize) {
            return Ok(Buffer::copy_of(bytes));
        }
        let mut buffer = Buffer::zeroed(request.len as usize);
        let bytes = buffer.as_mut_slice().unwrap_or_default();
        if !input.fill(&self.socket, bytes).await? && request.len > 0 {
            return Err(NbdError::Socket(std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(buffer)
    }

    fn start(self: &Rc<Self>, request: Request, payload: Buffer) {
        let cost = if matches!(request.command, command::READ | command::WRITE) { request.len as usize } else { 0 };
        self.in_flight.set(self.in_flight.get() + 1);
        self.bytes.set(self.bytes.get() + cost);
        let connection = self.clone();
        self.context.spawn(async move {
            let (reply, data) = connection.execute(request, payload).await;
            connection.socket.send_with(reply, data);
            connection.in_flight.set(connection.in_flight.get() - 1);
            connection.bytes.set(connection.bytes.get() - cost);
            connection.freed.notify_all();
        });
    }

    /// Runs one request and returns its reply: a head and, for reads, the data.
    async fn execute(&self, request: Request, payload: Buffer) -> (Vec<u8>, Buffer) {
        let (error_code, text) = match self.refusal(&request) {
            Some(refusal) => refusal,
            None => match self.dispatch(&request, payload).await {
                Ok(reply) => return reply,
                Err(failure) => (error_number(&failure), failure.to_string()),
            },
        };
        (self.error_reply(request.cookie, error_code, &text), Buffer::empty())
    }

    /// Why a request cannot even be tried.
    fn refusal(&self, request: &Request) -> Option<(u32, String)> {
        let size = self.agreement.export.node.facts().size;
        let writes = matches!(request.command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        if writes && self.read_only {
            return Some((error::PERMISSION, "the export is read-only".into()));
        }
        if request.end().is_none_or(|end| end > size) {
            let code = if writes { error::NO_SPACE } else { error::INVALID };
            return Some((code, format!("the range ends behind the disk of {size} bytes")));
        }
        if request.command == command::READ && request.len > MAX_PAYLOAD {
            return Some((error::INVALID, format!("more than {MAX_PAYLOAD} bytes at once")));
        }
        None
    }

    async fn dispatch(&self, request: &Request, payload: Buffer) -> Result<(Vec<u8>, Buffer)> {
        let node = &self.agreement.export.node;
        let range = request.offset..request.offset + u64::from(request.len);
        let fua = request.flags & command::FLAG_FUA != 0;
        let offset = request.offset;
        let run = |request: DiskRequest| async { node.run(request).await.result };
        match request.command {
            command::READ => return self.read(request).await,
            command::BLOCK_STATUS => return Ok((self.block_status(request, range).await?, Buffer::empty())),
            command::WRITE => run(DiskRequest::Write { offset, buffer: payload, fua }).await?,
            command::FLUSH => run(DiskRequest::Flush).await?,
            command::TRIM => {
                run(DiskRequest::Discard { range }).await?;
                if fua {
                    run(DiskRequest::Flush).await?;
                }
            }
            command::WRITE_ZEROES => {
                let may_unmap = request.flags & command::FLAG_NO_HOLE == 0;
                run(DiskRequest::WriteZeroes { range, may_unmap, fua }).await?;
            }
            other => {
                let reason = format!("the command {other} is unknown");
                return Err(DiskError::new(ErrorKind::Unsupported, "run an NBD request", reason));
            }
        }
        Ok((self.ok_reply(request.cookie), Buffer::empty()))
    }

    async fn read(&self, request: &Request) -> Result<(Vec<u8>, Buffer)> {
        let len = request.len as usize;
        let buffer = Buffer::zeroed(len);
        let read = DiskRequest::Read { offset: request.offset, buffer };
        let Completion { result, buffer } = self.agreement.export.node.run(read).await;
        result?;
        let mut reply = Vec::with_capacity(32);
        if self.agreement.structured {
            put_chunk(&mut reply, request.cookie, chunk::DONE, chunk::DATA, len + 8);
            reply.extend(request.offset.to_be_bytes());
        } else {
            put_simple_reply(&mut reply, request.cookie, 0);
        }
        Ok((reply, buffer))
    }

    async fn block_status(&self, request: &Request, range: Range<u64>) -> Result<Vec<u8>> {
        if self.agreement.contexts.is_empty() || range.is_empty() {
            let reason = "no context was selected, or the range is empty";
            return Err(DiskError::new(ErrorKind::Unsupported, "tell the block status", reason));
        }
        let most = if request.flags & command::FLAG_ONE != 0 { 1 } else { MOST_EXTENTS };
        let mut reply = Vec::new();
        let last = self.agreement.contexts.len() - 1;
        for (id, name) in self.agreement.contexts.iter().enumerate() {
            let mut extents = self.extents(name, range.clone()).await?;
            extents.truncate(most);
            let flags = if id == last { chunk::DONE } else { 0 };
            put_chunk(&mut reply, request.cookie, flags, chunk::BLOCK_STATUS, 4 + extents.len() * 8);
            reply.extend((id as u32).to_be_bytes());
            for extent in extents {
                // The request's length has 32 bits, and extents end where it ends.
                reply.extend((extent.len as u32).to_be_bytes());
                reply.extend(extent.flags.to_be_bytes());
            }
        }
        Ok(reply)
    }

    async fn extents(&self, context: &str, range: Range<u64>) -> Result<Vec<ContextExtent>> {
        let export = &self.agreement.export;
        if let Some(own) = export.contexts.iter().find(|own| own.name() == context) {
            return own.extents(range).await;
        }
        debug_assert!(context == BASE_ALLOCATION || context == DEPTH, "only offered contexts can be selected");
        let is_depth = context == DEPTH;
        let mut extents: Vec<ContextExtent> = Vec::new();
        for status in export.node.status(range).await? {
            let flags = match status.kind {
                _ if is_depth => u32::from(status.layer),
                BlockKind::Data => 0,
                BlockKind::Zero => STATE_ZERO,
                BlockKind::Hole => STATE_HOLE | STATE_ZERO,
            };
            let len = status.range.end - status.range.start;
            match extents.last_mut() {
                Some(last) if last.flags == flags => last.len += len,
                _ => extents.push(ContextExtent { len, flags }),
            }
        }
        Ok(extents)
    }

    fn ok_reply(&self, cookie: u64) -> Vec<u8> {
        let mut reply = Vec::with_capacity(20);
        if self.agreement.structured {
            put_chunk(&mut reply, cookie, chunk::DONE, chunk::NONE, 0);
        } else {
            put_simple_reply(&mut reply, cookie, 0);
        }
        reply
    }

    fn error_reply(&self, cookie: u64, code: u32, text: &str) -> Vec<u8> {
        let mut reply = Vec::new();
        if self.agreement.structured {
            let text = &text.as_bytes()[..text.len().min(protocol::MAX_NAME)];
            put_chunk(&mut reply, cookie, chunk::DONE, chunk::ERROR, 6 + text.len());
            reply.extend(code.to_be_bytes());
            reply.extend((text.len() as u16).to_be_bytes());
            reply.extend(text);
        } else {
            put_simple_reply(&mut reply, cookie, code);
        }
        reply
    }
}

/// The protocol's number for a disk's error.
fn error_number(failure: &DiskError) -> u32 {
    match failure.kind() {
        ErrorKind::ReadOnly => error::PERMISSION,
        ErrorKind::NoSpace => error::NO_SPACE,
        ErrorKind::OutOfRange | ErrorKind::Misaligned => error::INVALID,
        ErrorKind::Unsupported => error::UNSUPPORTED,
        ErrorKind::Cancelled => error::SHUTDOWN,
        _ => error::IO,
    }
}

impl Input {
    /// Begins with bytes that came behind the handshake.
    fn new(first: Vec<u8>) -> Self {
        let range = 0..first.len();
        let mut buffer = first;
        buffer.resize(buffer.len().max(INPUT), 0);
        Self { buffer, range }
    }

    /// The next `count` bytes, if all of them are here already.
    fn take(&mut self, count: usize) -> Option<&[u8]> {
        if self.range.len() < count {
            return None;
        }
        let from = self.range.start;
        self.range.start += count;
        Some(&self.buffer[from..from + count])
    }

    /// Fills `out`. False: the peer closed before its first byte.
    async fn fill(&mut self, socket: &Socket, out: &mut [u8]) -> std::io::Result<bool> {
        let mut filled = 0;
        while filled < out.len() {
            if self.range.is_empty() {
                if out.len() - filled >= self.buffer.len() {
                    // Large payloads go straight to their place.
                    socket.receive_exact(&mut out[filled..]).await?;
                    return Ok(true);
                }
                self.range = 0..socket.receive(&mut self.buffer).await?;
                if self.range.is_empty() {
                    return if filled == 0 { Ok(false) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) };
                }
            }
            let count = self.range.len().min(out.len() - filled);
            let from = self.range.start;
            out[filled..filled + count].copy_from_slice(&self.buffer[from..from + count]);
            self.range.start += count;
            filled += count;
        }
        Ok(true)
    }
}
