//! Memory as a descriptor: memfds whose length is sealed.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// `len` zero bytes that nobody, ourselves included, can resize afterwards: an access to a page that was cut off would
/// be a fatal signal in every process that maps it. `name` is shown in /proc/…/maps.
///
/// # Errors
/// Out of descriptors, or a length that the kernel does not take.
pub fn sealed_memfd(name: &str, len: u64) -> io::Result<OwnedFd> {
    let memfd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&memfd, len)?;
    fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memfd)
}

/// Whether a descriptor is memory that cannot be cut off under its users. Ask before mapping what another process
/// passed.
pub fn is_sealed_against_shrinking(fd: impl AsFd) -> bool {
    fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK))
}
