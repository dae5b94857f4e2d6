//! Faults of generated code become return values.
//!
//! A stub that raises SIGFPE, SIGSEGV, SIGBUS or SIGILL continues at the first byte of its arena (a `ret`) with the
//! exception's vector in EAX. Faults anywhere else go to the handler that was installed before ours.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::NativeError;

/// Arenas that one process may have at a time. A worker has two: stubs and translated code.
const ARENAS: usize = 64;

/// An arena's address range; `start` 0 = free, 1 = being filled in.
struct Arena {
    start: AtomicUsize,
    len: AtomicUsize,
}

static TABLE: [Arena; ARENAS] = [const { Arena { start: AtomicUsize::new(0), len: AtomicUsize::new(0) } }; ARENAS];

/// An entry of the table; dropped, faults in its range are no longer ours.
#[derive(Debug)]
pub struct Registration(usize);

impl Drop for Registration {
    fn drop(&mut self) {
        TABLE[self.0].start.store(0, Ordering::Release);
    }
}

/// Announces an arena to the signal handler, which is installed on the first call.
pub fn register(start: usize, len: usize) -> Result<Registration, NativeError> {
    install()?;
    for (index, arena) in TABLE.iter().enumerate() {
        if arena.start.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            arena.len.store(len, Ordering::Relaxed);
            arena.start.store(start, Ordering::Release);
            return Ok(Registration(index));
        }
    }
    Err(NativeError::TooManyArenas { limit: ARENAS })
}

const SIGNALS: [c_int; 4] = [libc::SIGFPE, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL];

struct Previous([libc::sigaction; 4]);

static PREVIOUS: OnceLock<Result<Previous, c_int>> = OnceLock::new();

fn install() -> Result<(), NativeError> {
    let result = PREVIOUS.get_or_init(|| {
        // SAFETY: all-zero bytes are a valid sigaction; each call gets valid pointers.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = handler as *const () as usize;
            // On the alternate stack, because the handler that we chain to detects stack overflow.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            let mut previous = [MaybeUninit::zeroed().assume_init(); 4];
            for (signal, slot) in SIGNALS.into_iter().zip(&mut previous) {
                if libc::sigaction(signal, &action, slot) != 0 {
                    return Err(signal);
                }
            }
            Ok(Previous(previous))
        }
    });
    match result {
        Ok(_) => Ok(()),
        Err(signal) => Err(NativeError::SignalHandler { signal: *signal }),
    }
}

/// Start of the arena that holds `address`.
fn arena_of(address: usize) -> Option<usize> {
    TABLE.iter().find_map(|arena| {
        let start = arena.start.load(Ordering::Acquire);
        (start > 1 && address.wrapping_sub(start) < arena.len.load(Ordering::Relaxed)).then_some(start)
    })
}

/// Vector of the exception behind a signal, as the kernel recorded it.
const TRAP_NUMBER: usize = libc::REG_TRAPNO as usize;

extern "C" fn handler(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the third argument is the interrupted thread's ucontext, ours to change.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    if let Some(start) = arena_of(registers[libc::REG_RIP as usize] as usize) {
        registers[libc::REG_RAX as usize] = registers[TRAP_NUMBER];
        registers[libc::REG_RIP as usize] = start as i64;
        return;
    }
    chain(signal, info, context);
}

fn chain(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let previous = match PREVIOUS.get() {
        Some(Ok(previous)) => SIGNALS.iter().position(|&s| s == signal).map(|index| &previous.0[index]),
        _ => None,
    };
    match previous {
        Some(action) if action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN => {
            // SAFETY: the kernel would have called this very function with these arguments; one without SA_SIGINFO
            // ignores the last two.
            unsafe {
                let function: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                    std::mem::transmute(action.sa_sigaction);
                function(signal, info, context);
            }
        }
        // Default action: take our handler away and let the instruction fault again.
        // SAFETY: async-signal-safe, valid signal number.
        _ => unsafe {
            libc::signal(signal, libc::SIG_DFL);
        },
    }
}
