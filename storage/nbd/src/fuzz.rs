//! Fuzz targets: everything that parses what a peer sent.

use std::rc::Rc;

use bulkhead_disk::{BlockKind, Completion, DiskFacts, LocalFuture, Node, Request, Result, StatusExtent};

use crate::export::Export;
use crate::negotiation::{Negotiation, Step};
use crate::protocol::{REQUEST_LEN, Request as NbdRequest};

/// A disk that does nothing.
struct Nothing;

impl Node for Nothing {
    fn facts(&self) -> DiskFacts {
        DiskFacts::plain(1 << 20, "raw")
    }

    fn run(&self, request: Request) -> LocalFuture<'_, Completion> {
        Box::pin(async move { Completion::ok(request.into_buffer()) })
    }

    fn status(&self, range: std::ops::Range<u64>) -> LocalFuture<'_, Result<Vec<StatusExtent>>> {
        let extent = StatusExtent { range, kind: BlockKind::Hole, layer: 0, file_offset: None };
        Box::pin(async move { Ok(vec![extent]) })
    }
}

/// A handshake in pieces of the lengths that the input itself gives, then requests.
pub fn fuzz(data: &[u8]) {
    let exports = vec![Rc::new(Export::new("a", Rc::new(Nothing))), Rc::new(Export::new("b", Rc::new(Nothing)))];
    let mut out = Vec::new();
    let mut negotiation = Negotiation::new(exports, &mut out);
    let mut rest = data;
    while let Some((&len, tail)) = rest.split_first() {
        let piece = &tail[..tail.len().min(usize::from(len) + 1)];
        rest = &tail[piece.len()..];
        if !matches!(negotiation.feed(piece, &mut out), Step::More) {
            break;
        }
        assert!(out.len() < (data.len() + 1) * 4096, "answers stay in proportion to the questions");
    }
    for chunk in data.as_chunks::<REQUEST_LEN>().0 {
        if let Some(request) = NbdRequest::parse(chunk) {
            let mut again = Vec::new();
            request.encode(&mut again);
            assert_eq!(again, chunk);
        }
    }
}
