//! Getting a VP out of `KVM_RUN` from another thread: a flag in its run page, and a signal that does nothing.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::run_page::ImmediateExit;

/// How to reach the thread that runs a VP.
struct Running {
    thread: libc::pid_t,
    exit: ImmediateExit,
}

/// One VP's kick state, shared by the partition and the VP.
#[derive(Default)]
pub struct Kicker {
    kicked: AtomicBool,
    running: Mutex<Option<Running>>,
}

impl Kicker {
    /// [`bulkhead_engine::Partition::kick`]: `run` returns `Kicked`.
    pub fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.interrupt();
    }

    /// Makes the VP leave the guest and look around, without returning from `run`.
    pub fn interrupt(&self) {
        if let Some(running) = &*self.running.lock() {
            running.exit.set(true);
            // SAFETY: plain system call without pointers. The thread is alive: it clears `running` before it leaves.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), running.thread, signal()) };
        }
    }

    /// Takes a kick that has arrived.
    pub fn take(&self) -> bool {
        self.kicked.swap(false, Ordering::SeqCst)
    }

    /// The calling thread runs the VP until the guard is dropped.
    pub fn enter(&self, exit: ImmediateExit) -> RunGuard<'_> {
        install_handler();
        // SAFETY: a system call without arguments.
        let thread = unsafe { libc::gettid() };
        *self.running.lock() = Some(Running { thread, exit });
        RunGuard(self)
    }
}

/// See [`Kicker::enter`].
pub struct RunGuard<'a>(&'a Kicker);

impl RunGuard<'_> {
    /// Clears the run page's flag; kicks from now on set it again.
    pub fn clear_exit_flag(&self) {
        if let Some(running) = &*self.0.running.lock() {
            running.exit.set(false);
        }
    }
}

impl Drop for RunGuard<'_> {
    fn drop(&mut self) {
        self.0.running.lock().take();
    }
}

fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// The signal only has to interrupt the system call.
fn install_handler() {
    static ONCE: Once = Once::new();
    extern "C" fn nothing(_: libc::c_int) {}
    ONCE.call_once(|| {
        // SAFETY: a zeroed sigaction is valid: no flags (so KVM_RUN is not restarted), empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the action is initialised, its handler is async-signal-safe, and the old one is not asked for.
        unsafe { libc::sigaction(signal(), &raw const action, std::ptr::null_mut()) };
    });
}
