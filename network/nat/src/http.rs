//! The HTTP server for network boot (RFC 9112): GET and HEAD of boot files, ranges, connections that stay open.
//!
//! A connection is a [`Stream`]: what a guest writes is parsed, what it reads comes straight from the file.

use crate::host::{BootFile, Stream};
use std::io::{self, ErrorKind};

/// Longest request.
const LONGEST: usize = 8 << 10;

/// Finds files by name.
pub(crate) type Open<'a> = &'a mut dyn FnMut(&str) -> io::Result<Box<dyn BootFile>>;

/// What is being sent.
struct Response {
    head: Vec<u8>,
    body: Option<(Box<dyn BootFile>, u64)>,
    /// Bytes of the body.
    len: u64,
    /// Bytes of head and body that the guest has.
    consumed: u64,
    closes: bool,
}

/// One connection.
#[derive(Default)]
pub(crate) struct HttpConnection {
    request: Vec<u8>,
    response: Option<Response>,
    ended: bool,
    /// A whole request is here and waits for [`HttpConnection::answer`].
    ready: bool,
}

impl HttpConnection {
    /// Answers the request that is there, if one is.
    pub fn answer(&mut self, open: Open<'_>) {
        if !std::mem::take(&mut self.ready) || self.response.is_some() {
            return;
        }
        let response = match head_len(&self.request) {
            Some(len) => {
                let head = self.request.drain(..len).collect::<Vec<u8>>();
                respond(&head, open)
            }
            None => plain(400, "Bad Request", true, false),
        };
        self.response = Some(response);
    }
}

/// Length of a request's head with the empty line at its end.
fn head_len(request: &[u8]) -> Option<usize> {
    request.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn plain(code: u16, reason: &str, closes: bool, head_only: bool) -> Response {
    let body = format!("{reason}\n");
    let connection = if closes { "close" } else { "keep-alive" };
    let mut head = format!(
        "HTTP/1.1 {code} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
        body.len()
    );
    if !head_only {
        head.push_str(&body);
    }
    Response { head: head.into_bytes(), body: None, len: 0, consumed: 0, closes }
}

fn respond(head: &[u8], open: Open<'_>) -> Response {
    let Ok(text) = std::str::from_utf8(head) else { return plain(400, "Bad Request", true, false) };
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return plain(400, "Bad Request", true, false);
    };
    let header = |name: &str| {
        let mut fields = lines.clone().filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let connection = header("connection").unwrap_or_default().to_ascii_lowercase();
    let closes = connection.contains("close") || version == "HTTP/1.0" && !connection.contains("keep-alive");
    let has_body = header("content-length").is_some_and(|len| len != "0") || header("transfer-encoding").is_some();
    if has_body {
        // Reading past it is not worth the trouble.
        return plain(400, "Bad Request", true, false);
    }
    if method != "GET" && method != "HEAD" {
        return plain(405, "Method Not Allowed", closes, false);
    }
    let head_only = method == "HEAD";
    let path = target.strip_prefix("http://").map_or(target, |rest| rest.find('/').map_or("/", |at| &rest[at..]));
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let file = match decoded(path).map(|path| open(&path)) {
        Some(Ok(file)) => file,
        Some(Err(error)) if error.kind() == ErrorKind::PermissionDenied => {
            return plain(403, "Forbidden", closes, head_only);
        }
        _ => return plain(404, "Not Found", closes, head_only),
    };
    let size = file.len();
    let (status, start, len, range) = match header("range").map(|range| part(range, size)) {
        None | Some(Part::Whole) => ("200 OK", 0, size, String::new()),
        Some(Part::Bytes(start, len)) => {
            let end = start + len - 1;
            ("206 Partial Content", start, len, format!("Content-Range: bytes {start}-{end}/{size}\r\n"))
        }
        Some(Part::None) => {
            return plain(416, "Range Not Satisfiable", closes, head_only);
        }
    };
    let connection = if closes { "close" } else { "keep-alive" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nContent-Length: {len}\r\nAccept-Ranges: bytes\r\n\
         {range}Connection: {connection}\r\n\r\n"
    );
    let (body, len) = if head_only { (None, 0) } else { (Some((file, start)), len) };
    Response { head: head.into_bytes(), body, len, consumed: 0, closes }
}

enum Part {
    Whole,
    Bytes(u64, u64),
    None,
}

/// One range of bytes; several are answered with the whole.
fn part(range: &str, size: u64) -> Part {
    let Some((from, to)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Part::Whole;
    };
    let (start, end) = match (from.parse::<u64>(), to.parse::<u64>()) {
        (Ok(start), Ok(end)) if start <= end => (start, end.min(size.saturating_sub(1))),
        (Ok(start), Err(_)) if to.is_empty() => (start, size.saturating_sub(1)),
        (Err(_), Ok(last)) if from.is_empty() => (size.saturating_sub(last), size.saturating_sub(1)),
        _ => return Part::Whole,
    };
    if start >= size { Part::None } else { Part::Bytes(start, end - start + 1) }
}

/// A path without %-escapes; `None` if they are malformed.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        bytes.push((digit(rest.next())? * 16 + digit(rest.next())?) as u8);
    }
    String::from_utf8(bytes).ok()
}

impl Stream for HttpConnection {
    fn connected(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LONGEST.saturating_sub(self.request.len());
        if room == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let taken = bytes.len().min(room);
        self.request.extend(&bytes[..taken]);
        self.ready = head_len(&self.request).is_some() || self.request.len() == LONGEST;
        Ok(taken)
    }

    fn peek(&mut self, skip: usize, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(response) = &self.response else {
            return if self.ended { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        };
        let head = response.head.len() as u64;
        let total = head + response.len;
        let at = response.consumed + skip as u64;
        if at >= total {
            return if response.closes { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        if at < head {
            let rest = &response.head[at as usize..];
            let len = rest.len().min(buffer.len());
            buffer[..len].copy_from_slice(&rest[..len]);
            return Ok(len);
        }
        let Some((file, start)) = &response.body else { return Ok(0) };
        let len = buffer.len().min((total - at) as usize);
        match file.read_at(&mut buffer[..len], start + at - head)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }

    fn consume(&mut self, len: usize) -> io::Result<()> {
        let Some(response) = &mut self.response else { return Ok(()) };
        response.consumed += len as u64;
        if response.consumed >= response.head.len() as u64 + response.len && !response.closes {
            self.response = None;
            self.ready = head_len(&self.request).is_some();
        }
        Ok(())
    }

    fn finish(&mut self) {
        self.ended = true;
    }

    fn abort(&mut self) {}
}
