//! What a server offers under a name.

use std::ops::Range;
use std::rc::Rc;

use bulkhead_disk::{LocalFuture, Node, Result};

use crate::protocol::flag;

/// One disk on offer.
#[derive(Clone)]
pub struct Export {
    /// The name that clients ask for; the empty name is the default export.
    pub name: String,
    /// For people.
    pub description: String,
    /// The disk.
    pub node: Rc<dyn Node>,
    /// Refuse writes even if the disk takes them.
    pub read_only: bool,
    /// Metadata contexts beyond `base:allocation` and `bulkhead:depth`, for example `qemu:dirty-bitmap:NAME`.
    pub contexts: Vec<Rc<dyn StatusContext>>,
}

/// A metadata context of an export: a number for each byte.
pub trait StatusContext {
    /// `namespace:name`.
    fn name(&self) -> String;

    /// Extents that begin at `range.start`, in order, and end at or before `range.end`.
    fn extents(&self, range: Range<u64>) -> LocalFuture<'_, Result<Vec<ContextExtent>>>;
}

/// A run of equal status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextExtent {
    /// Bytes, never 0.
    pub len: u64,
    /// The context's own flags.
    pub flags: u32,
}

impl Export {
    /// A read-write export of everything that the disk can do.
    pub fn new(name: impl Into<String>, node: Rc<dyn Node>) -> Self {
        Self { name: name.into(), description: String::new(), node, read_only: false, contexts: Vec::new() }
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only || self.node.facts().read_only
    }

    /// Transmission flags. A flush goes to the disk itself, so it covers all connections.
    pub(crate) fn flags(&self) -> u16 {
        let writes = flag::TRIM | flag::WRITE_ZEROES;
        let always = flag::HAS_FLAGS | flag::FLUSH | flag::FUA | flag::DONT_FRAGMENT | flag::MULTI_CONNECTION;
        always | if self.is_read_only() { flag::READ_ONLY } else { writes }
    }

    /// Minimum, preferred and maximum block size.
    pub(crate) fn block_sizes(&self) -> [u32; 3] {
        let facts = self.node.facts();
        [facts.logical_sector, facts.physical_sector.max(4096), crate::protocol::MAX_PAYLOAD]
    }
}
