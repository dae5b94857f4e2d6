//! SO_PEEK_OFF: where peeking at a stream begins.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Makes the next peek (MSG_PEEK) begin `offset` bytes after the first unread one. Each peek moves it on by what it returned.
///
/// # Errors
/// `Unsupported` for kinds of sockets that the kernel cannot do this with: TCP before Linux 6.10.
pub fn set_peek_offset(socket: impl AsFd, offset: i32) -> io::Result<()> {
    let value = std::ptr::from_ref(&offset).cast();
    let len = size_of::<i32>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads `len` bytes of `offset`, which lives until the call returns.
    match unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, value, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
