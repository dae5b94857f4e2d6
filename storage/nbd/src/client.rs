//! The client: a node whose bytes are behind a socket.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use bulkhead_block_io::IoContext;
use bulkhead_disk::{
    BlockKind, Buffer, Completion, DiskError, DiskFacts, ErrorKind, LocalFuture, Node, Notify, Request as DiskRequest,
    Result, StatusExtent, check_range,
};

use crate::NbdError;
use crate::negotiation::BASE_ALLOCATION;
use crate::protocol::{
    self, CLIENT_NO_ZEROES, MAGIC, MAX_OPTION, MAX_PAYLOAD, OPTION_MAGIC, OPTION_REPLY_MAGIC, Reader, Request,
    SIMPLE_REPLY_MAGIC, STATE_HOLE, STATE_ZERO, STRUCTURED_REPLY_MAGIC, chunk, command, error, flag, info, option,
    reply,
};
use crate::socket::Socket;

/// The longest piece of one request; longer ones are cut.
const PIECE: u64 = 8 << 20;
/// Extents of one answer; honest servers send far fewer.
const MOST_EXTENTS: usize = 4 << 20;

/// A connected export.
pub struct Client {
    socket: Rc<Socket>,
    facts: DiskFacts,
    flags: u16,
    has_status: bool,
    next_cookie: Cell<u64>,
    pending: RefCell<HashMap<u64, Pending>>,
    answered: Notify,
    broken: RefCell<Option<String>>,
}

/// A request that was sent.
struct Pending {
    buffer: Buffer,
    offset: u64,
    /// Bytes of a read that have arrived.
    filled: u64,
    extents: Vec<(u32, u32)>,
    error: Option<(u32, String)>,
    done: bool,
}

/// What the handshake found.
struct Greeting {
    size: u64,
    flags: u16,
    minimum_block: u32,
    has_status: bool,
}

impl Client {
    /// Shakes hands over a connected stream socket and enters transmission with the export `name`.
    ///
    /// # Errors
    /// The socket fails, the server does not speak the protocol, or refuses the export.
    pub async fn connect(fd: OwnedFd, name: &str, context: &IoContext) -> std::result::Result<Rc<Self>, NbdError> {
        let socket = Rc::new(Socket::new(fd, context.clone())?);
        let output = socket.clone();
        context.spawn(async move {
            // The receiving side notices the same failure.
            let _ = output.run_output().await;
        });
        let greeting = shake_hands(&socket, name).await?;
        let mut facts = DiskFacts::plain(greeting.size, "nbd");
        facts.read_only = greeting.flags & flag::READ_ONLY != 0;
        facts.logical_sector = if greeting.minimum_block == 4096 { 4096 } else { 512 };
        facts.discard_granularity = if greeting.flags & flag::TRIM != 0 { 4096 } else { 0 };
        let client = Rc::new(Self {
            socket,
            facts,
            flags: greeting.flags,
            has_status: greeting.has_status,
            next_cookie: Cell::new(1),
            pending: RefCell::default(),
            answered: Notify::default(),
            broken: RefCell::default(),
        });
        let receiver = client.clone();
        context.spawn(async move {
            if let Err(error) = receiver.receive_replies().await {
                receiver.give_up(&error.to_string());
            }
        });
        Ok(client)
    }

    /// Says goodbye. Requests still in flight fail.
    pub fn disconnect(&self) {
        let mut bytes = Vec::new();
        Request { flags: 0, command: command::DISCONNECT, cookie: 0, offset: 0, len: 0 }.encode(&mut bytes);
        self.socket.send(bytes);
        self.socket.finish_output();
    }

    fn give_up(&self, reason: &str) {
        self.broken.borrow_mut().get_or_insert_with(|| reason.to_owned());
        self.socket.fail();
        self.answered.notify_all();
    }

    async fn receive_replies(&self) -> std::result::Result<(), NbdError> {
        loop {
            let mut magic = [0; 4];
            self.socket.receive_exact(&mut magic).await?;
            match u32::from_be_bytes(magic) {
                SIMPLE_REPLY_MAGIC => self.receive_simple().await?,
                STRUCTURED_REPLY_MAGIC => self.receive_chunk().await?,
                other => return Err(NbdError::Protocol(format!("a reply with magic {other:#x}"))),
            }
        }
    }

    async fn receive_simple(&self) -> std::result::Result<(), NbdError> {
        let mut head = [0; 12];
        self.socket.receive_exact(&mut head).await?;
        let mut reader = Reader::new(&head);
        let (code, cookie) = (reader.u32().unwrap_or(0), reader.u64().unwrap_or(0));
        let mut request = self.take(cookie)?;
        if code == 0 && request.filled == 0 && !request.buffer.is_empty() {
            let len = request.buffer.len();
            receive_into(&self.socket, &mut request.buffer, 0..len).await?;
            request.filled = len as u64;
        }
        if code != 0 {
            request.error = Some((code, String::new()));
        }
        request.done = true;
        self.put_back(cookie, request);
        Ok(())
    }

    async fn receive_chunk(&self) -> std::result::Result<(), NbdError> {
        let mut head = [0; 16];
        self.socket.receive_exact(&mut head).await?;
        let mut reader = Reader::new(&head);
        let (flags, kind) = (reader.u16().unwrap_or(0), reader.u16().unwrap_or(0));
        let (cookie, len) = (reader.u64().unwrap_or(0), reader.u32().unwrap_or(0));
        if len > MAX_PAYLOAD + 64 {
            return Err(NbdError::Protocol(format!("a chunk of {len} bytes")));
        }
        let mut request = self.take(cookie)?;
        match kind {
            chunk::NONE if len == 0 => {}
            chunk::DATA if len > 8 => {
                let range = self.chunk_range(&request, u64::from(len) - 8).await?;
                request.filled += (range.end - range.start) as u64;
                receive_into(&self.socket, &mut request.buffer, range).await?;
            }
            chunk::HOLE if len == 12 => {
                let mut body = [0; 12];
                self.socket.receive_exact(&mut body).await?;
                let mut reader = Reader::new(&body);
                let (offset, hole) = (reader.u64().unwrap_or(0), reader.u32().unwrap_or(0));
                let range = inside(&request, offset, u64::from(hole))?;
                request.filled += u64::from(hole);
                request.buffer.copy_from(range.start, &vec![0; range.len()]);
            }
            _ => {
                let mut body = vec![0; len as usize];
                self.socket.receive_exact(&mut body).await?;
                take_small_chunk(&mut request, kind, &body)?;
            }
        }
        request.done = flags & chunk::DONE != 0;
        self.put_back(cookie, request);
        Ok(())
    }

    async fn chunk_range(&self, request: &Pending, len: u64) -> std::result::Result<Range<usize>, NbdError> {
        let mut offset = [0; 8];
        self.socket.receive_exact(&mut offset).await?;
        inside(request, u64::from_be_bytes(offset), len)
    }

    fn take(&self, cookie: u64) -> std::result::Result<Pending, NbdError> {
        let request = self.pending.borrow_mut().remove(&cookie).filter(|request| !request.done);
        request.ok_or_else(|| NbdError::Protocol(format!("a reply to the unknown request {cookie}")))
    }

    fn put_back(&self, cookie: u64, request: Pending) {
        let done = request.done;
        self.pending.borrow_mut().insert(cookie, request);
        if done {
            self.answered.notify_all();
        }
    }

    /// Sends one request and waits for its whole answer.
    async fn exchange(&self, kind: u16, flags: u16, range: Range<u64>, buffer: Buffer, payload: bool) -> Pending {
        let cookie = self.next_cookie.get();
        self.next_cookie.set(cookie + 1);
        let len = (range.end - range.start) as u32;
        let mut bytes = Vec::with_capacity(protocol::REQUEST_LEN + if payload { len as usize } else { 0 });
        Request { flags, command: kind, cookie, offset: range.start, len }.encode(&mut bytes);
        if payload {
            bytes.extend(buffer.to_vec());
        }
        let filled = if payload { range.end - range.start } else { 0 };
        let request = Pending { buffer, offset: range.start, filled, extents: Vec::new(), error: None, done: false };
        self.pending.borrow_mut().insert(cookie, request);
        self.socket.room().await;
        self.socket.send(bytes);
        loop {
            let broken = self.broken.borrow().clone();
            let is_done = self.pending.borrow().get(&cookie).is_some_and(|request| request.done);
            if is_done || broken.is_some() {
                let request = self.pending.borrow_mut().remove(&cookie);
                let lost = || (error::SHUTDOWN, broken.clone().unwrap_or_else(|| "the reply was lost".into()));
                let mut request = request.unwrap_or_else(|| Pending::lost(lost()));
                if !request.done {
                    request.error = Some(lost());
                }
                return request;
            }
            self.answered.wait().await;
        }
    }

    async fn run_checked(&self, request: DiskRequest) -> Completion {
        let action = action_of(&request);
        match request {
            DiskRequest::Read { offset, buffer } => self.pieces(action, offset, buffer, None).await,
            DiskRequest::Write { offset, buffer, fua } => self.pieces(action, offset, buffer, Some(fua)).await,
            DiskRequest::Flush => self.plain(action, command::FLUSH, 0, 0..0).await,
            DiskRequest::Discard { range } if self.flags & flag::TRIM != 0 => {
                self.plain(action, command::TRIM, 0, range).await
            }
            // A hint that the server does not take.
            DiskRequest::Discard { .. } => Completion::ok(Buffer::empty()),
            DiskRequest::WriteZeroes { range, may_unmap, fua } if self.flags & flag::WRITE_ZEROES != 0 => {
                let hole = if may_unmap { 0 } else { command::FLAG_NO_HOLE };
                self.plain(action, command::WRITE_ZEROES, hole | fua_flag(fua), range).await
            }
            DiskRequest::WriteZeroes { range, fua, .. } => {
                for at in (range.start..range.end).step_by(PIECE as usize) {
                    let len = PIECE.min(range.end - at) as usize;
                    let done = self.pieces(action, at, Buffer::zeroed(len), Some(fua)).await;
                    if done.result.is_err() {
                        return Completion::from_result(done.result);
                    }
                }
                Completion::ok(Buffer::empty())
            }
        }
    }

    /// A read (`write` = None) or a write (with FUA or not), in pieces.
    async fn pieces(&self, action: &'static str, offset: u64, buffer: Buffer, write: Option<bool>) -> Completion {
        let (mut left, mut done, mut at) = (buffer, Buffer::empty(), offset);
        while !left.is_empty() {
            let len = left.len().min(PIECE as usize);
            let rest = left.split_off(len);
            let range = at..at + len as u64;
            let (kind, flags) = match write {
                None => (command::READ, 0),
                Some(fua) => (command::WRITE, fua_flag(fua && self.flags & flag::FUA != 0)),
            };
            let request = self.exchange(kind, flags, range, left, write.is_some()).await;
            let incomplete = request.error.is_none() && request.filled != len as u64;
            let failed = request.error.or(incomplete.then(|| (error::IO, "the server left bytes out".into())));
            done.append(request.buffer);
            left = rest;
            if let Some(failed) = failed {
                done.append(left);
                return Completion::failed(disk_error(action, at, failed), done);
            }
            at += len as u64;
        }
        if write == Some(true) && self.flags & flag::FUA == 0 {
            let flushed = self.plain(action, command::FLUSH, 0, 0..0).await;
            return Completion { result: flushed.result, buffer: done };
        }
        Completion::ok(done)
    }

    /// A request without payload, in pieces that 32 bits can name.
    async fn plain(&self, action: &'static str, kind: u16, flags: u16, range: Range<u64>) -> Completion {
        let mut at = range.start;
        loop {
            let end = range.end.min(at + (1 << 31));
            let request = self.exchange(kind, flags, at..end, Buffer::empty(), false).await;
            if let Some(failed) = request.error {
                return Completion::failed(disk_error(action, at, failed), Buffer::empty());
            }
            if end == range.end {
                return Completion::ok(Buffer::empty());
            }
            at = end;
        }
    }

    async fn status_of(&self, range: Range<u64>) -> Result<Vec<StatusExtent>> {
        let whole = |kind| vec![StatusExtent { range: range.clone(), kind, layer: 0, file_offset: None }];
        if !self.has_status {
            return Ok(whole(BlockKind::Data));
        }
        let mut extents: Vec<StatusExtent> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + (1 << 31));
            let request = self.exchange(command::BLOCK_STATUS, 0, at..end, Buffer::empty(), false).await;
            if let Some(failed) = request.error {
                return Err(disk_error("ask for the block status", at, failed));
            }
            let before = at;
            for (len, flags) in request.extents {
                let next = at.saturating_add(u64::from(len)).min(range.end);
                let kind = match flags & (STATE_HOLE | STATE_ZERO) {
                    0 | STATE_HOLE => BlockKind::Data,
                    STATE_ZERO => BlockKind::Zero,
                    _ => BlockKind::Hole,
                };
                match extents.last_mut() {
                    _ if next == at => {}
                    Some(last) if last.kind == kind => last.range.end = next,
                    _ => extents.push(StatusExtent { range: at..next, kind, layer: 0, file_offset: None }),
                }
                at = next;
            }
            if at == before {
                let reason = "the server described no byte";
                return Err(DiskError::new(ErrorKind::Io, "ask for the block status", reason).at(at));
            }
        }
        Ok(extents)
    }
}

impl Node for Client {
    fn facts(&self) -> DiskFacts {
        self.facts.clone()
    }

    fn run(&self, request: DiskRequest) -> LocalFuture<'_, Completion> {
        Box::pin(async move {
            match check_range(&self.facts, &request.range(), request.is_write()) {
                Ok(()) => self.run_checked(request).await,
                Err(error) => Completion::failed(error, request.into_buffer()),
            }
        })
    }

    fn status(&self, range: Range<u64>) -> LocalFuture<'_, Result<Vec<StatusExtent>>> {
        Box::pin(async move {
            check_range(&self.facts, &range, false)?;
            self.status_of(range).await
        })
    }
}

impl Pending {
    fn lost(error: (u32, String)) -> Self {
        Self { buffer: Buffer::empty(), offset: 0, filled: 0, extents: Vec::new(), error: Some(error), done: true }
    }
}

/// The part of a read's buffer that `len` bytes at `offset` of the disk are.
fn inside(request: &Pending, offset: u64, len: u64) -> std::result::Result<Range<usize>, NbdError> {
    let start = offset.checked_sub(request.offset);
    let range = start.and_then(|start| Some(start..start.checked_add(len)?));
    let range = range.filter(|range| range.end <= request.buffer.len() as u64);
    let range = range.ok_or_else(|| NbdError::Protocol("data outside the range that was asked for".into()))?;
    Ok(range.start as usize..range.end as usize)
}

async fn receive_into(socket: &Socket, buffer: &mut Buffer, range: Range<usize>) -> std::io::Result<()> {
    if let Some(bytes) = buffer.as_mut_slice() {
        return socket.receive_exact(&mut bytes[range]).await;
    }
    let mut bytes = vec![0; range.len()];
    socket.receive_exact(&mut bytes).await?;
    buffer.copy_from(range.start, &bytes);
    Ok(())
}

/// Errors and block status.
fn take_small_chunk(request: &mut Pending, kind: u16, body: &[u8]) -> std::result::Result<(), NbdError> {
    let mut reader = Reader::new(body);
    if kind == chunk::BLOCK_STATUS {
        let _context = reader.u32();
        while let (Some(len), Some(flags)) = (reader.u32(), reader.u32()) {
            request.extents.push((len, flags));
        }
        if request.extents.len() > MOST_EXTENTS {
            return Err(NbdError::Protocol(format!("more than {MOST_EXTENTS} extents in one answer")));
        }
        return Ok(());
    }
    if kind & 1 << 15 == 0 {
        return Err(NbdError::Protocol(format!("a chunk of the unknown kind {kind}")));
    }
    let code = reader.u32().unwrap_or(error::IO);
    let text = reader.u16().and_then(|len| reader.bytes(usize::from(len))).unwrap_or_default();
    request.error = Some((code, String::from_utf8_lossy(text).into_owned()));
    Ok(())
}

fn fua_flag(fua: bool) -> u16 {
    if fua { command::FLAG_FUA } else { 0 }
}

fn action_of(request: &DiskRequest) -> &'static str {
    match request {
        DiskRequest::Read { .. } => "read over NBD",
        DiskRequest::Write { .. } => "write over NBD",
        DiskRequest::Flush => "flush over NBD",
        DiskRequest::Discard { .. } => "discard over NBD",
        DiskRequest::WriteZeroes { .. } => "clear over NBD",
    }
}

fn disk_error(action: &'static str, offset: u64, (code, text): (u32, String)) -> DiskError {
    let (kind, name) = match code {
        error::PERMISSION => (ErrorKind::ReadOnly, "not permitted"),
        error::NO_SPACE => (ErrorKind::NoSpace, "no space"),
        error::INVALID => (ErrorKind::OutOfRange, "invalid request"),
        error::UNSUPPORTED => (ErrorKind::Unsupported, "not supported"),
        error::MEMORY => (ErrorKind::Io, "out of memory"),
        error::SHUTDOWN => (ErrorKind::Cancelled, "the connection ended"),
        _ => (ErrorKind::Io, "input/output error"),
    };
    let reason = if text.is_empty() { format!("the server says: {name}") } else { format!("the server says: {text}") };
    DiskError::new(kind, action, reason).at(offset)
}

async fn shake_hands(socket: &Socket, name: &str) -> std::result::Result<Greeting, NbdError> {
    let mut hello = [0; 18];
    socket.receive_exact(&mut hello).await?;
    let mut reader = Reader::new(&hello);
    if reader.u64() != Some(MAGIC) || reader.u64() != Some(OPTION_MAGIC) || reader.u16().unwrap_or(0) & 1 == 0 {
        return Err(NbdError::Protocol("no fixed-newstyle greeting".into()));
    }
    // Without the flag the server may send 124 zeroes only after EXPORT_NAME, which is not used.
    socket.send((1 | CLIENT_NO_ZEROES).to_be_bytes().to_vec());
    let structured = ask(socket, option::STRUCTURED_REPLY, &[]).await?.0 == reply::ACK;
    let name_field = [&(name.len() as u32).to_be_bytes()[..], name.as_bytes()].concat();
    let mut has_status = false;
    if structured {
        let base = BASE_ALLOCATION.as_bytes();
        let query = [&name_field[..], &1_u32.to_be_bytes(), &(base.len() as u32).to_be_bytes(), base].concat();
        let (end, infos) = ask(socket, option::SET_META_CONTEXT, &query).await?;
        has_status = end == reply::ACK && !infos.is_empty();
    }
    let request = [&name_field[..], &1_u16.to_be_bytes(), &info::BLOCK_SIZE.to_be_bytes()].concat();
    let (end, infos) = ask(socket, option::GO, &request).await?;
    if end != reply::ACK {
        let reason = infos.last().map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default();
        return Err(NbdError::Refused { asked: format!("the export \"{name}\""), reason });
    }
    let mut greeting = Greeting { size: 0, flags: 0, minimum_block: 1, has_status };
    for data in infos {
        let mut reader = Reader::new(&data);
        match reader.u16() {
            Some(info::EXPORT) => {
                greeting.size = reader.u64().unwrap_or(0);
                greeting.flags = reader.u16().unwrap_or(0);
            }
            Some(info::BLOCK_SIZE) => greeting.minimum_block = reader.u32().unwrap_or(1),
            _ => {}
        }
    }
    // Bytes behind the last whole sector are out of reach, as on a disk.
    greeting.size &= !511;
    Ok(greeting)
}

/// Sends an option and collects replies up to the one that ends it: (its type, data of the ones before or of the error).
async fn ask(socket: &Socket, number: u32, data: &[u8]) -> std::result::Result<(u32, Vec<Vec<u8>>), NbdError> {
    let mut request = OPTION_MAGIC.to_be_bytes().to_vec();
    request.extend(number.to_be_bytes());
    request.extend((data.len() as u32).to_be_bytes());
    request.extend(data);
    socket.send(request);
    let mut collected = Vec::new();
    for _ in 0..256 {
        let mut head = [0; 20];
        socket.receive_exact(&mut head).await?;
        let mut reader = Reader::new(&head);
        let (magic, option, kind, len) = (reader.u64(), reader.u32(), reader.u32(), reader.u32());
        let (Some(kind), Some(len)) = (kind, len.filter(|&len| len <= MAX_OPTION)) else {
            return Err(NbdError::Protocol("an option reply that is too long".into()));
        };
        if magic != Some(OPTION_REPLY_MAGIC) || option != Some(number) {
            return Err(NbdError::Protocol("an answer to another option".into()));
        }
        let mut body = vec![0; len as usize];
        socket.receive_exact(&mut body).await?;
        if kind == reply::ACK {
            return Ok((kind, collected));
        }
        collected.push(body);
        if kind & reply::ERROR != 0 {
            return Ok((kind, collected));
        }
    }
    Err(NbdError::Protocol("option replies without end".into()))
}
