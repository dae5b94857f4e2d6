//! The server's side of the handshake: bytes in, bytes out.

use std::rc::Rc;

use crate::export::Export;
use crate::protocol::{
    self, CLIENT_NO_ZEROES, HANDSHAKE_FLAGS, MAGIC, MAX_OPTION, OPTION_MAGIC, Reader, info, option, put_option_reply,
    reply,
};

/// Context that every export has: allocation.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Context that every export has: the depth of the layer that holds the bytes, 0 = the top of the chain.
pub const DEPTH: &str = "bulkhead:depth";

/// What a session agreed on.
#[derive(Clone)]
pub struct Agreement {
    /// The chosen export.
    pub export: Rc<Export>,
    /// Replies are structured.
    pub structured: bool,
    /// Selected contexts; the id on the wire is the index.
    pub contexts: Vec<String>,
}

/// Where the handshake stands after some input.
pub enum Step {
    /// More bytes are needed.
    More,
    /// Transmission begins.
    Done(Agreement),
    /// The client said goodbye, or broke the protocol: send what there is, and close.
    Close,
}

/// One client's handshake.
pub struct Negotiation {
    exports: Vec<Rc<Export>>,
    input: Vec<u8>,
    client_flags: Option<u32>,
    structured: bool,
    /// Selected with SET_META_CONTEXT, for the export of that name.
    selected: Option<(String, Vec<String>)>,
}

impl Negotiation {
    /// Begins; the first bytes go to `out`.
    pub fn new(exports: Vec<Rc<Export>>, out: &mut Vec<u8>) -> Self {
        out.extend(MAGIC.to_be_bytes());
        out.extend(OPTION_MAGIC.to_be_bytes());
        out.extend(HANDSHAKE_FLAGS.to_be_bytes());
        Self { exports, input: Vec::new(), client_flags: None, structured: false, selected: None }
    }

    /// Takes bytes from the client. After [`Step::Done`], [`Self::rest`] holds what belongs to transmission.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Step {
        self.input.extend(bytes);
        if self.client_flags.is_none() {
            let Some(flags) = Reader::new(&self.input).u32() else { return Step::More };
            self.input.drain(..4);
            if flags & !3 != 0 {
                return Step::Close;
            }
            self.client_flags = Some(flags);
        }
        loop {
            let mut reader = Reader::new(&self.input);
            let (Some(magic), Some(number), Some(len)) = (reader.u64(), reader.u32(), reader.u32()) else {
                return Step::More;
            };
            if magic != OPTION_MAGIC || len > MAX_OPTION {
                return Step::Close;
            }
            let Some(data) = reader.bytes(len as usize).map(<[u8]>::to_vec) else { return Step::More };
            self.input.drain(..16 + data.len());
            match self.option(number, &data, out) {
                Step::More => {}
                end => return end,
            }
        }
    }

    /// Bytes behind the handshake.
    pub fn rest(self) -> Vec<u8> {
        self.input
    }

    fn option(&mut self, number: u32, data: &[u8], out: &mut Vec<u8>) -> Step {
        match number {
            option::EXPORT_NAME => return self.export_name(data, out),
            option::ABORT => {
                put_option_reply(out, number, reply::ACK, &[]);
                return Step::Close;
            }
            option::LIST if data.is_empty() => self.list(out),
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                put_option_reply(out, number, reply::ACK, &[]);
            }
            option::INFO | option::GO => return self.go(number, data, out),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta_context(number, data, out),
            option::LIST | option::STRUCTURED_REPLY => {
                put_option_reply(out, number, reply::INVALID, b"this option has no data");
            }
            _ => put_option_reply(out, number, reply::UNSUPPORTED, b"this server does not know the option"),
        }
        Step::More
    }

    fn find(&self, name: &str) -> Option<Rc<Export>> {
        let by_name = self.exports.iter().find(|export| export.name == name);
        // The empty name means "the default": the first.
        by_name.or_else(|| self.exports.first().filter(|_| name.is_empty())).cloned()
    }

    fn agreement(&self, export: Rc<Export>, asked: &str) -> Agreement {
        let contexts = match &self.selected {
            Some((name, contexts)) if name == asked && self.structured => contexts.clone(),
            _ => Vec::new(),
        };
        Agreement { export, structured: self.structured, contexts }
    }

    fn export_name(&self, data: &[u8], out: &mut Vec<u8>) -> Step {
        // This option has no error reply: the only answer to a wrong name is to hang up.
        let name = std::str::from_utf8(data).ok().filter(|name| name.len() <= protocol::MAX_NAME);
        let Some((name, export)) = name.and_then(|name| Some((name, self.find(name)?))) else { return Step::Close };
        out.extend(export.node.facts().size.to_be_bytes());
        out.extend(export.flags().to_be_bytes());
        if self.client_flags.unwrap_or(0) & CLIENT_NO_ZEROES == 0 {
            out.extend([0; 124]);
        }
        Step::Done(self.agreement(export, name))
    }

    fn list(&self, out: &mut Vec<u8>) {
        for export in &self.exports {
            let mut data = (export.name.len() as u32).to_be_bytes().to_vec();
            data.extend(export.name.as_bytes());
            data.extend(export.description.as_bytes());
            put_option_reply(out, option::LIST, reply::SERVER, &data);
        }
        put_option_reply(out, option::LIST, reply::ACK, &[]);
    }

    fn go(&self, number: u32, data: &[u8], out: &mut Vec<u8>) -> Step {
        let mut reader = Reader::new(data);
        let request = reader.name().and_then(|name| {
            let count = reader.u16()?;
            let kinds = (0..count).map(|_| reader.u16()).collect::<Option<Vec<_>>>()?;
            reader.is_empty().then_some((name, kinds))
        });
        let Some((name, kinds)) = request else {
            put_option_reply(out, number, reply::INVALID, b"the request's lengths do not fit together");
            return Step::More;
        };
        let Some(export) = self.find(name) else {
            put_option_reply(out, number, reply::UNKNOWN, b"there is no export of this name");
            return Step::More;
        };
        let mut put = |kind: u16, body: &[u8]| {
            put_option_reply(out, number, reply::INFO, &[&kind.to_be_bytes(), body].concat());
        };
        let size = export.node.facts().size.to_be_bytes();
        put(info::EXPORT, &[&size[..], &export.flags().to_be_bytes()].concat());
        for kind in kinds {
            match kind {
                info::NAME => put(kind, export.name.as_bytes()),
                info::DESCRIPTION if !export.description.is_empty() => put(kind, export.description.as_bytes()),
                info::BLOCK_SIZE => put(kind, export.block_sizes().map(u32::to_be_bytes).as_flattened()),
                _ => {}
            }
        }
        put_option_reply(out, number, reply::ACK, &[]);
        if number == option::GO { Step::Done(self.agreement(export, name)) } else { Step::More }
    }

    fn meta_context(&mut self, number: u32, data: &[u8], out: &mut Vec<u8>) {
        let mut reader = Reader::new(data);
        let request = reader.name().and_then(|name| {
            // A count larger than the data could hold ends at the first missing query.
            let count = reader.u32()?;
            let mut queries = Vec::new();
            for _ in 0..count {
                queries.push(reader.name()?.to_owned());
            }
            reader.is_empty().then_some((name.to_owned(), queries))
        });
        let Some((name, queries)) = request.filter(|_| self.structured) else {
            put_option_reply(out, number, reply::INVALID, b"the queries do not parse, or replies are not structured");
            return;
        };
        let Some(export) = self.find(&name) else {
            put_option_reply(out, number, reply::UNKNOWN, b"there is no export of this name");
            return;
        };
        let is_list = number == option::LIST_META_CONTEXT;
        let mut contexts = vec![BASE_ALLOCATION.to_owned(), DEPTH.to_owned()];
        contexts.extend(export.contexts.iter().map(|context| context.name()));
        let wanted = |context: &String| {
            (is_list && queries.is_empty())
                || queries.iter().any(|query| query == context || (is_list && is_namespace(query, context)))
        };
        contexts.retain(wanted);
        for (id, context) in (0_u32..).zip(&contexts) {
            let id = if is_list { 0 } else { id };
            let data = [&id.to_be_bytes()[..], context.as_bytes()].concat();
            put_option_reply(out, number, reply::META_CONTEXT, &data);
        }
        put_option_reply(out, number, reply::ACK, &[]);
        if !is_list {
            self.selected = Some((name, contexts));
        }
    }
}

/// Whether a query such as `base:` or `qemu:dirty-bitmap:` covers the context.
fn is_namespace(query: &str, context: &str) -> bool {
    query.ends_with(':') && context.starts_with(query)
}
