//! Pages that guests lend: the hypercall page, message and event pages, the assist page.
//!
//! Formally they cover the guest's RAM; here they are that RAM. So each is cleared when it is switched on or moved, and what the
//! hypercall page replaced comes back when it goes.

use bulkhead_guest_memory::{GuestMemory, PAGE_SIZE};

/// An MSR that names a page: bit 0 enables it, bits 63:12 are its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PageMsr(pub u64);

impl PageMsr {
    pub const ENABLE: u64 = 1;

    /// Address of the page, if it is enabled.
    pub fn page(self) -> Option<u64> {
        (self.0 & Self::ENABLE != 0).then_some(self.0 & !(PAGE_SIZE - 1))
    }

    /// What a write leaves; `None` if it enables a page that is no RAM, which is #GP. Returns the page to prepare, if it is
    /// a new one.
    pub fn written(self, value: u64, memory: &GuestMemory) -> Option<(Self, Option<u64>)> {
        let new = Self(value);
        if let Some(page) = new.page() {
            memory.check(page, PAGE_SIZE).ok()?;
        }
        Some((new, new.page().filter(|_| new.page() != self.page())))
    }
}

/// Code of the hypercall page, for 32- and 64-bit callers alike: ENDBR64, OUT to the hypercall port, RET, INT3s.
pub(crate) fn hypercall_code() -> [u8; PAGE_SIZE as usize] {
    let mut code = [0xcc; PAGE_SIZE as usize];
    code[..7].copy_from_slice(&[0xf3, 0x0f, 0x1e, 0xfa, 0xe7, bulkhead_engine::HYPERCALL_PORT, 0xc3]);
    code
}
