//! GPADLs: buffers of guest pages that the guest described once and both sides use until it is torn down.

use bulkhead_guest_memory::{AccessError, GuestMemory, GuestRange, PAGE_SIZE};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Most pages of one GPADL: its description counts bytes in 16 bits.
pub const MAX_GPADL_PAGES: usize = 8190;

/// A buffer that cannot be used as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GpadlError {
    /// The page list does not fit length and offset.
    #[error("GPADL of {len} bytes at offset {offset} needs other than the {pages} pages it names")]
    BadPages {
        /// Bytes.
        len: u32,
        /// Offset into the first page.
        offset: u32,
        /// Pages named.
        pages: usize,
    },
    /// A page that is not RAM.
    #[error(transparent)]
    NotRam(#[from] AccessError),
    /// An access beyond the end.
    #[error("bytes {at}+{len} of a GPADL with {size} bytes")]
    OutOfRange {
        /// First byte.
        at: u64,
        /// Bytes.
        len: u64,
        /// Bytes there are.
        size: u64,
    },
}

/// A buffer of guest pages, anywhere in guest memory. Cheap to clone; the guest learns that a torn-down GPADL is free when
/// the last clone is gone.
#[derive(Clone)]
pub struct Gpadl {
    inner: Arc<Inner>,
}

struct Inner {
    memory: GuestMemory,
    /// Page numbers.
    pages: Box<[u64]>,
    /// Into the first page.
    offset: u32,
    len: u32,
    on_release: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Gpadl {
    /// A buffer of `len` bytes that begins `offset` bytes into the first of `pages` (page numbers).
    ///
    /// # Errors
    /// Pages that are not RAM; too many or too few of them.
    pub fn new(memory: GuestMemory, len: u32, offset: u32, pages: Vec<u64>) -> Result<Gpadl, GpadlError> {
        let needed = (u64::from(len) + u64::from(offset)).div_ceil(PAGE_SIZE);
        if u64::from(offset) >= PAGE_SIZE || len == 0 || needed != pages.len() as u64 || pages.len() > MAX_GPADL_PAGES {
            return Err(GpadlError::BadPages { len, offset, pages: pages.len() });
        }
        for page in &pages {
            memory.check(page.saturating_mul(PAGE_SIZE), PAGE_SIZE)?;
        }
        let pages = pages.into_boxed_slice();
        Ok(Gpadl { inner: Arc::new(Inner { memory, pages, offset, len, on_release: Mutex::new(None) }) })
    }

    /// Bytes.
    #[allow(clippy::len_without_is_empty, reason = "no GPADL is empty")]
    pub fn len(&self) -> u64 {
        self.inner.len.into()
    }

    /// Offset of the first byte into its page.
    pub fn offset(&self) -> u32 {
        self.inner.offset
    }

    /// Page numbers.
    pub fn pages(&self) -> &[u64] {
        &self.inner.pages
    }

    /// The memory it is in.
    pub fn memory(&self) -> &GuestMemory {
        &self.inner.memory
    }

    /// Runs `released` when the last clone is dropped. The bus uses it once, when the GPADL is torn down.
    pub fn on_release(&self, released: impl FnOnce() + Send + 'static) {
        *self.inner.on_release.lock() = Some(Box::new(released));
    }

    /// The guest memory behind bytes `at..at + len`, page by page.
    ///
    /// # Errors
    /// [`GpadlError::OutOfRange`].
    pub fn ranges(&self, at: u64, len: u64) -> Result<impl Iterator<Item = GuestRange> + '_, GpadlError> {
        if at.checked_add(len).is_none_or(|end| end > self.len()) {
            return Err(GpadlError::OutOfRange { at, len, size: self.len() });
        }
        let mut at = at + u64::from(self.inner.offset);
        let end = at + len;
        Ok(std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let page = self.inner.pages[(at / PAGE_SIZE) as usize];
            let len = (PAGE_SIZE - at % PAGE_SIZE).min(end - at);
            let range = GuestRange { gpa: page * PAGE_SIZE + at % PAGE_SIZE, len };
            at += len;
            Some(range)
        }))
    }

    /// Guest address of byte `at`.
    ///
    /// # Errors
    /// [`GpadlError::OutOfRange`].
    pub fn address(&self, at: u64) -> Result<u64, GpadlError> {
        let mut ranges = self.ranges(at, 1)?;
        ranges.next().map(|range| range.gpa).ok_or(GpadlError::OutOfRange { at, len: 1, size: self.len() })
    }

    /// Reads `buffer.len()` bytes at `at`.
    ///
    /// # Errors
    /// [`GpadlError::OutOfRange`]; the buffer is unchanged.
    pub fn read(&self, at: u64, buffer: &mut [u8]) -> Result<(), GpadlError> {
        let mut rest = buffer;
        for GuestRange { gpa, len } in self.ranges(at, rest.len() as u64)? {
            let (now, later) = rest.split_at_mut(len as usize);
            self.inner.memory.read(gpa, now)?;
            rest = later;
        }
        Ok(())
    }

    /// Writes `bytes` at `at`.
    ///
    /// # Errors
    /// [`GpadlError::OutOfRange`]; memory is unchanged.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<(), GpadlError> {
        let mut rest = bytes;
        for GuestRange { gpa, len } in self.ranges(at, bytes.len() as u64)? {
            let (now, later) = rest.split_at(len as usize);
            self.inner.memory.write(gpa, now)?;
            rest = later;
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(released) = self.on_release.get_mut().take() {
            released();
        }
    }
}

impl fmt::Debug for Gpadl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpadl({} bytes in {} pages)", self.inner.len, self.inner.pages.len())
    }
}

/// The GPADLs of one offer, by handle. The bus fills it; channels look things up.
#[derive(Clone, Default, Debug)]
pub struct GpadlTable {
    entries: Arc<Mutex<BTreeMap<u32, Gpadl>>>,
}

impl GpadlTable {
    /// The GPADL with this handle.
    pub fn get(&self, handle: u32) -> Option<Gpadl> {
        self.entries.lock().get(&handle).cloned()
    }

    /// Adds one; false, and nothing done, when the handle is taken.
    pub fn insert(&self, handle: u32, gpadl: Gpadl) -> bool {
        let mut entries = self.entries.lock();
        let free = !entries.contains_key(&handle);
        if free {
            entries.insert(handle, gpadl);
        }
        free
    }

    /// Takes one out.
    pub fn remove(&self, handle: u32) -> Option<Gpadl> {
        self.entries.lock().remove(&handle)
    }

    /// All of them, by handle.
    pub fn all(&self) -> Vec<(u32, Gpadl)> {
        self.entries.lock().iter().map(|(handle, gpadl)| (*handle, gpadl.clone())).collect()
    }

    /// Whether there is one with this handle.
    pub fn contains(&self, handle: u32) -> bool {
        self.entries.lock().contains_key(&handle)
    }

    /// Pages of all of them together.
    pub fn pages(&self) -> usize {
        self.entries.lock().values().map(|gpadl| gpadl.pages().len()).sum()
    }

    /// Takes all of them out.
    pub fn take_all(&self) -> Vec<Gpadl> {
        std::mem::take(&mut *self.entries.lock()).into_values().collect()
    }
}
