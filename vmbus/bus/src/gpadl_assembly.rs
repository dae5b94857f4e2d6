//! GPADLs whose description comes in several messages.

use bulkhead_guest_memory::GuestMemory;
use bulkhead_vmbus_channel::{Gpadl, MAX_GPADL_PAGES};
use bulkhead_vmbus_protocol::{GpadlHeader, PFNS_OFFSET};
use std::collections::BTreeMap;

/// Most descriptions that may be incomplete at once: drivers do one after the other per processor.
const MAX_ASSEMBLIES: usize = 256;

/// A description that is not complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assembly {
    pub relid: u32,
    /// Bytes it will have.
    pub total_len: u16,
    /// Length, offset and page numbers so far.
    pub bytes: Vec<u8>,
}

/// All of them, by handle.
#[derive(Default)]
pub(crate) struct Assemblies {
    pub by_handle: BTreeMap<u32, Assembly>,
}

/// What a message made of a description.
pub(crate) enum Assembled {
    /// More is to come.
    Partial,
    /// All is there, for this channel.
    Complete { relid: u32, gpadl: Gpadl },
    /// It is none, and the reason; for this channel.
    Refused { relid: u32, reason: String },
    /// A body without a beginning.
    Unknown,
}

impl Assemblies {
    /// Pages of the incomplete ones.
    pub fn pages(&self) -> usize {
        self.by_handle.values().map(|assembly| usize::from(assembly.total_len) / 8).sum()
    }

    /// The first message.
    pub fn begin(&mut self, header: &GpadlHeader<'_>, memory: &GuestMemory) -> Assembled {
        let refused = |reason: String| Assembled::Refused { relid: header.relid, reason };
        let total = usize::from(header.total_len);
        if header.range_count != 1 {
            return refused(format!("it has {} ranges; one is supported", header.range_count));
        }
        if !total.is_multiple_of(8) || !(PFNS_OFFSET + 8..=PFNS_OFFSET + 8 * MAX_GPADL_PAGES).contains(&total) {
            return refused(format!("a range of {total} bytes cannot be"));
        }
        if self.by_handle.contains_key(&header.gpadl) {
            return refused("another one with its handle is being described".into());
        }
        if self.by_handle.len() >= MAX_ASSEMBLIES {
            return refused(format!("{MAX_ASSEMBLIES} are being described already"));
        }
        let assembly =
            Assembly { relid: header.relid, total_len: header.total_len, bytes: Vec::with_capacity(total.min(4096)) };
        self.by_handle.insert(header.gpadl, assembly);
        self.add(header.gpadl, header.ranges, memory)
    }

    /// Each further message.
    pub fn add(&mut self, handle: u32, ranges: &[u8], memory: &GuestMemory) -> Assembled {
        let Some(assembly) = self.by_handle.get_mut(&handle) else { return Assembled::Unknown };
        let missing = usize::from(assembly.total_len) - assembly.bytes.len();
        // Whole numbers only; the rest of a message is padding.
        assembly.bytes.extend_from_slice(&ranges[..(ranges.len() & !7).min(missing)]);
        if assembly.bytes.len() < usize::from(assembly.total_len) {
            return Assembled::Partial;
        }
        let Some(Assembly { relid, bytes, .. }) = self.by_handle.remove(&handle) else { return Assembled::Unknown };
        match build(&bytes, memory) {
            Ok(gpadl) => Assembled::Complete { relid, gpadl },
            Err(reason) => Assembled::Refused { relid, reason },
        }
    }
}

fn build(range: &[u8], memory: &GuestMemory) -> Result<Gpadl, String> {
    let mut numbers = range.chunks_exact(8).map(|chunk| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(chunk);
        u64::from_le_bytes(bytes)
    });
    let first = numbers.next().unwrap_or(0);
    let (len, offset) = (first as u32, (first >> 32) as u32);
    Gpadl::new(memory.clone(), len, offset, numbers.collect()).map_err(|error| error.to_string())
}
