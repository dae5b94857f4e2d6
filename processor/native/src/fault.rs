//! Faults of generated code become return values.
//!
//! A stub that raises SIGFPE, SIGSEGV, SIGBUS or SIGILL continues at the first byte of its arena (a `ret`) with the
//! exception's vector in EAX. Faults anywhere else go to the handler that was installed before ours.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::{FAULT_MARKER, NativeError};

/// Arenas that one process may have at a time. A worker has two: stubs and translated code.
const ARENAS: usize = 64;

/// Where code of an arena goes on after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landing {
    /// At the arena's first byte, which returns to the caller, with the vector in EAX.
    Caller,
    /// Where the marker in front of the instruction leads: [`crate::FAULT_MARKER`].
    Marker,
}

/// An arena's address range; `start` 0 = free, 1 = being filled in.
struct Arena {
    start: AtomicUsize,
    len: AtomicUsize,
    markers: AtomicBool,
}

static TABLE: [Arena; ARENAS] =
    [const { Arena { start: AtomicUsize::new(0), len: AtomicUsize::new(0), markers: AtomicBool::new(false) } }; ARENAS];

/// An entry of the table; dropped, faults in its range are no longer ours.
#[derive(Debug)]
pub struct Registration(usize);

impl Drop for Registration {
    fn drop(&mut self) {
        TABLE[self.0].start.store(0, Ordering::Release);
    }
}

/// Announces an arena to the signal handler, which is installed on the first call.
pub fn register(start: usize, len: usize, landing: Landing) -> Result<Registration, NativeError> {
    install()?;
    for (index, arena) in TABLE.iter().enumerate() {
        if arena.start.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            arena.len.store(len, Ordering::Relaxed);
            arena.markers.store(landing == Landing::Marker, Ordering::Relaxed);
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

/// The arena that holds `address`: its start and how it lands.
fn arena_of(address: usize) -> Option<(usize, Landing)> {
    TABLE.iter().find_map(|arena| {
        let start = arena.start.load(Ordering::Acquire);
        let inside = start > 1 && address.wrapping_sub(start) < arena.len.load(Ordering::Relaxed);
        let landing = if arena.markers.load(Ordering::Relaxed) { Landing::Marker } else { Landing::Caller };
        inside.then_some((start, landing))
    })
}

/// Where the marker in front of `address` leads, in an arena that begins at `start`.
fn marked_landing(address: usize, start: usize) -> Option<usize> {
    const LENGTH: usize = FAULT_MARKER.len() + 4;
    if address - start < LENGTH {
        return None;
    }
    // SAFETY: inside the arena, which is readable: checked by the caller and just now.
    let bytes = unsafe { ((address - LENGTH) as *const [u8; LENGTH]).read() };
    let [a, b, c, distance @ ..] = bytes;
    ([a, b, c] == FAULT_MARKER).then(|| address.wrapping_add_signed(i32::from_le_bytes(distance) as isize))
}

/// Vector of the exception behind a signal, as the kernel recorded it.
const TRAP_NUMBER: usize = libc::REG_TRAPNO as usize;

extern "C" fn handler(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the third argument is the interrupted thread's ucontext, ours to change.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let address = registers[libc::REG_RIP as usize] as usize;
    match arena_of(address) {
        Some((start, Landing::Caller)) => {
            registers[libc::REG_RAX as usize] = registers[TRAP_NUMBER];
            registers[libc::REG_RIP as usize] = start as i64;
            return;
        }
        Some((start, Landing::Marker)) => {
            if let Some(landing) = marked_landing(address, start) {
                registers[libc::REG_RIP as usize] = landing as i64;
                return;
            }
        }
        None => {}
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
