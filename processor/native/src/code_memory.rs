//! Memory for generated code: one memfd mapped twice, writable here and executable there, never both.

use std::os::fd::AsFd;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::NativeError;
use crate::fault;

/// A bounded arena of machine code.
///
/// Code is only ever appended. Reclaiming means [`Self::clear`]: everything goes at once, and the generation number
/// tells holders of old offsets that they are stale.
#[derive(Debug)]
pub struct CodeMemory {
    // Dropped first: faults in the range must not be claimed once the mapping is gone.
    _registration: fault::Registration,
    writable: Mapping,
    executable: Mapping,
    used: usize,
    generation: u64,
}

/// A mapping of the arena's file.
#[derive(Debug)]
struct Mapping {
    address: *mut u8,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; it is written only through `&mut CodeMemory`.
unsafe impl Send for Mapping {}
// SAFETY: as above: `&self` gives out only the address.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: &impl AsFd, len: usize, protection: ProtFlags) -> rustix::io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let address = unsafe { mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, file, 0)? };
        Ok(Self { address: address.cast(), len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; whoever holds an address in it holds the arena too.
        let _ = unsafe { munmap(self.address.cast(), self.len) };
    }
}

/// Where a piece of code lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeSpan {
    /// Bytes from [`CodeMemory::base`].
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
}

/// No room: clear the arena, then generate again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "code memory is full: {used} of {capacity} bytes are in use and {wanted} more were asked for; clear it and generate the code again"
)]
pub struct Full {
    /// Bytes in use.
    pub used: usize,
    /// Bytes in all.
    pub capacity: usize,
    /// Bytes asked for.
    pub wanted: usize,
}

/// Pieces of code start at multiples of this many bytes: an instruction fetch line of every x86-64 processor.
const ALIGNMENT: usize = 16;

/// The first bytes of the arena are where a faulting stub continues: back to its caller, EAX as the signal handler
/// set it. Stubs push nothing, so the return address is on top of the stack wherever they fault.
const LANDING: [u8; 1] = [0xc3];

/// The start of a no-operation in front of an instruction that may fault: NOP dword [RAX + distance]. The 32-bit
/// distance, counted from the end of the marker, follows it.
pub const FAULT_MARKER: [u8; 3] = [0x0f, 0x1f, 0x80];

impl CodeMemory {
    /// Makes an arena of `capacity` bytes (rounded up to pages, at most 1 GiB). Untouched pages cost nothing.
    ///
    /// Faults of code in it return to the caller as numbers: see [`crate::StubEntry`].
    pub fn new(capacity: usize) -> Result<Self, NativeError> {
        Self::with_landing(capacity, fault::Landing::Caller)
    }

    /// As [`Self::new`], but a faulting instruction goes on where the [`FAULT_MARKER`] in front of it leads. Faults of
    /// instructions without one are the process's own.
    pub fn with_fault_markers(capacity: usize) -> Result<Self, NativeError> {
        Self::with_landing(capacity, fault::Landing::Marker)
    }

    fn with_landing(capacity: usize, landing: fault::Landing) -> Result<Self, NativeError> {
        let capacity = capacity.clamp(4096, 1 << 30).next_multiple_of(4096);
        let failed = |what| move |source| NativeError::CodeMemory { what, capacity, source };
        let flags = MemfdFlags::CLOEXEC;
        // Hosts may refuse executable memfds unless asked for; old kernels do not know the flag.
        let file = memfd_create("bulkhead-code", flags | MemfdFlags::EXEC)
            .or_else(|_| memfd_create("bulkhead-code", flags))
            .map_err(failed("create"))?;
        ftruncate(&file, capacity as u64).map_err(failed("size"))?;
        let writable = Mapping::new(&file, capacity, ProtFlags::READ | ProtFlags::WRITE);
        let executable = Mapping::new(&file, capacity, ProtFlags::READ | ProtFlags::EXEC);
        let writable = writable.map_err(failed("map writable"))?;
        let executable = executable.map_err(failed("map executable"))?;
        let registration = fault::register(executable.address as usize, capacity, landing)?;
        let mut memory = Self { _registration: registration, writable, executable, used: 0, generation: 0 };
        memory.clear();
        Ok(memory)
    }

    /// Appends code. It may run as soon as this returns, at `base() + offset`.
    pub fn push(&mut self, code: &[u8]) -> Result<CodeSpan, Full> {
        let offset = self.used.next_multiple_of(ALIGNMENT);
        let full = Full { used: self.used, capacity: self.writable.len, wanted: code.len() };
        let end = offset.checked_add(code.len()).filter(|&end| end <= self.writable.len).ok_or(full)?;
        self.copy_in(offset, code);
        self.used = end;
        Ok(CodeSpan { offset: offset as u32, len: code.len() as u32 })
    }

    /// Where the next piece of code will begin.
    pub fn next_offset(&self) -> u32 {
        self.used.next_multiple_of(ALIGNMENT) as u32
    }

    /// Replaces bytes of the used part. No other thread may be executing there.
    ///
    /// # Panics
    /// If they are not all inside the used part.
    pub fn write(&mut self, offset: u32, bytes: &[u8]) {
        assert!(offset as usize + bytes.len() <= self.used, "write at {offset:#x}");
        self.copy_in(offset as usize, bytes);
    }

    /// Replaces the aligned 8 bytes at `offset` in one store, so that a thread executing there sees the old or the
    /// new instruction, never a mixture.
    ///
    /// # Panics
    /// If `offset` is not a multiple of 8 inside the used part.
    pub fn patch(&mut self, offset: u32, bytes: [u8; 8]) {
        let offset = offset as usize;
        assert!(
            offset.is_multiple_of(8) && offset + 8 <= self.used.next_multiple_of(ALIGNMENT),
            "patch at {offset:#x}"
        );
        // SAFETY: inside the writable mapping (capacity is a multiple of pages), aligned, shared only with
        // instruction fetch.
        let target = unsafe { AtomicU64::from_ptr(self.writable.address.add(offset).cast()) };
        target.store(u64::from_le_bytes(bytes), Ordering::Release);
    }

    /// Forgets all code. No thread may be inside it or enter it through an old offset afterwards.
    pub fn clear(&mut self) {
        self.used = 0;
        self.copy_in(0, &LANDING);
        self.used = LANDING.len();
        self.generation += 1;
    }

    /// Counts the calls of [`Self::clear`].
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Address that offsets count from, in the executable mapping.
    pub fn base(&self) -> *const u8 {
        self.executable.address
    }

    /// Whether `address` is in the executable mapping.
    pub fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.executable.address as usize) < self.writable.len
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used
    }

    fn copy_in(&mut self, offset: usize, bytes: &[u8]) {
        debug_assert!(offset + bytes.len() <= self.writable.len, "the caller checked the bounds");
        // SAFETY: in bounds of the writable mapping; `bytes` is ordinary memory and cannot overlap it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.writable.address.add(offset), bytes.len()) };
    }
}
