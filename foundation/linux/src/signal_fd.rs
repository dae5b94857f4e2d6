//! [`SignalFd`]: signals as something to poll, so that no code runs inside a signal handler.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// A signal that can be taken from a [`SignalFd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The terminal is gone.
    Hangup,
    /// Ctrl-C.
    Interrupt,
    /// A polite request to end.
    Terminate,
    /// The terminal has another size.
    WindowChange,
}

impl Signal {
    const ALL: [Signal; 4] = [Signal::Hangup, Signal::Interrupt, Signal::Terminate, Signal::WindowChange];

    /// The kernel's number.
    pub const fn number(self) -> i32 {
        match self {
            Signal::Hangup => libc::SIGHUP,
            Signal::Interrupt => libc::SIGINT,
            Signal::Terminate => libc::SIGTERM,
            Signal::WindowChange => libc::SIGWINCH,
        }
    }
}

/// Readable while one of its signals is pending.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Takes `signals` from now on. They are blocked on the calling thread and on threads and programs that it starts
    /// later, so call this first in `main`.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new(signals: &[Signal]) -> io::Result<SignalFd> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigemptyset` initializes the set; the other calls read it. The numbers are valid signals.
        let fd = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(set.as_mut_ptr(), signal.number());
            }
            let error = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
            libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        Ok(SignalFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next pending signal; `None` when there is none.
    ///
    /// # Errors
    /// None that can happen to a valid descriptor.
    pub fn take(&self) -> io::Result<Option<Signal>> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        loop {
            match rustix::io::read(&self.0, &mut info) {
                Ok(_) => {
                    // The number is the first field.
                    let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
                    return Ok(Signal::ALL.into_iter().find(|signal| signal.number() == number));
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
