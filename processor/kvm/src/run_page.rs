//! The page shared with the kernel while a VP runs.

use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;

/// Flag that makes `KVM_RUN` return at once; other threads set it.
///
/// Invariant: made from the run page of a `VcpuFd`, and dropped (under the kick lock) before that is.
pub struct ImmediateExit(*const AtomicU8);

// SAFETY: only an atomic byte of the shared page is accessed through it; the page outlives it (invariant above).
unsafe impl Send for ImmediateExit {}

impl ImmediateExit {
    /// Of this VP.
    pub fn of(vcpu: &mut VcpuFd) -> Self {
        let field: *const u8 = &raw const vcpu.get_kvm_run().immediate_exit;
        Self(field.cast())
    }

    /// Sets or clears it.
    pub fn set(&self, on: bool) {
        // SAFETY: the pointer is valid by the type's invariant; the kernel reads the byte without a lock, as an atomic.
        unsafe { &*self.0 }.store(u8::from(on), Ordering::SeqCst);
    }
}

/// The bytes of a port exit: `size * count` of them, from `data_offset` of the run page.
pub fn port_data(run: &mut kvm_run, mapped: usize) -> Option<(PortExit, &mut [u8])> {
    // SAFETY: the caller saw KVM_EXIT_IO, so `io` is the valid member of the union; all of its bit patterns are valid.
    let io = unsafe { run.__bindgen_anon_1.io };
    let offset = usize::try_from(io.data_offset).ok()?;
    let len = usize::from(io.size).checked_mul(usize::try_from(io.count).ok()?)?;
    if offset.checked_add(len)? > mapped {
        return None;
    }
    let start: *mut u8 = std::ptr::from_mut(run).cast();
    // SAFETY: the run page is mapped for `mapped` bytes and the range lies within it (checked above). The kernel does
    // not touch it until the next KVM_RUN, which needs the same `&mut`.
    let data = unsafe { std::slice::from_raw_parts_mut(start.add(offset), len) };
    Some((PortExit { port: io.port, size: io.size, is_write: io.direction == 1 }, data))
}

/// What a port exit is about.
#[derive(Clone, Copy)]
pub struct PortExit {
    /// Port.
    pub port: u16,
    /// 1, 2 or 4.
    pub size: u8,
    /// OUT.
    pub is_write: bool,
}
