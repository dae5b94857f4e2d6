//! The RAM of a VM.
//!
//! [`GuestMemory`] is an ordered list of [`Region`]s of guest-physical addresses, each mapped into this process.
//! Everything that touches guest RAM goes through it; it is cheap to clone and all clones are the same RAM.
//!
//! | to … | use |
//! |---|---|
//! | make the RAM of a new VM, or map saved RAM back | [`GuestMemory::builder`] |
//! | read and write from a device | [`GuestMemory::read`], [`GuestMemory::write`], `read_u32`, `fetch_or_u32`, … (`access.rs`) |
//! | do file I/O straight into guest RAM | [`GuestMemory::scatter_list`] |
//! | run guest code (engines) | [`GuestMemory::host_pointer`], [`GuestMemory::regions`], then [`GuestMemory::mark_written`] |
//! | know which pages changed | [`GuestMemory::dirty`] |
//! | hear of writes to pages that hold decoded code | [`GuestMemory::set_write_observer`], [`GuestMemory::watch`] |
//! | save RAM, give pages back to the host | `save.rs`, [`GuestMemory::discard`] |
//!
//! # The memory model
//!
//! The guest, the kernel and other processes change this memory at any time, so no Rust reference to it ever exists.
//! Bulk copies are done by machine instructions that the compiler does not look into ([`bulkhead_linux::volatile`]): a race gives a mix of
//! old and new bytes, never undefined behaviour. Naturally aligned integers of up to 8 bytes are single-copy atomic;
//! reads acquire, writes release, read-modify-write operations are sequentially consistent. So a ring's index may be
//! read with `read_u32` and its entries after it with `read`, without further fences.

mod access;
mod bitmap;
mod build;
mod discard;
mod error;
mod memory;
mod notify;
mod pagemap;
mod region;
mod save;
mod scatter;

pub use bitmap::{DirtyBitmap, PageBitmap};
pub use build::GuestMemoryBuilder;
pub use error::{AccessError, MemoryError};
pub use memory::GuestMemory;
pub use notify::WriteObserver;
pub use region::{Backing, Region};
pub use scatter::{GuestRange, ScatterList};

/// Bytes in a guest page, and in a page of the host: the unit of regions, bitmaps, saving and discarding.
pub const PAGE_SIZE: u64 = 4096;
/// `PAGE_SIZE == 1 << PAGE_SHIFT`.
pub const PAGE_SHIFT: u32 = 12;
/// Guest-physical addresses are below this: x86-64 has at most 52 bits.
pub const ADDRESS_LIMIT: u64 = 1 << 52;
