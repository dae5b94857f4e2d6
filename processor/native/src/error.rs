//! What can go wrong here.

use iced_x86::{Code, CpuidFeature};

/// Making the executable arena failed.
#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    /// A system call for the arena failed.
    #[error(
        "cannot {what} {capacity} bytes of code memory: {source}; the software processor needs executable shared memory (memfd), check the container's seccomp profile and `sysctl vm.memfd_noexec`"
    )]
    CodeMemory {
        /// Which step.
        what: &'static str,
        /// Bytes asked for.
        capacity: usize,
        /// Why.
        source: rustix::io::Errno,
    },
    /// Too many arenas are alive.
    #[error("cannot make another code memory: {limit} are in use by this process")]
    TooManyArenas {
        /// How many there may be.
        limit: usize,
    },
    /// The signal handler could not be installed.
    #[error("cannot install the handler of signal {signal} that generated code needs")]
    SignalHandler {
        /// Which signal.
        signal: i32,
    },
    /// The arena's first stubs did not fit.
    #[error(transparent)]
    Full(#[from] crate::Full),
}

/// Why an instruction has no stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotNative {
    /// It belongs to another part of the engine.
    #[error("{0:?} is not executed natively")]
    OutOfScope(Code),
    /// The host lacks a feature. A guest whose CPUID is a subset of the host's never sees this.
    #[error("{code:?} needs {feature:?}, which this host lacks")]
    HostLacks {
        /// The instruction.
        code: Code,
        /// The missing feature.
        feature: CpuidFeature,
    },
    /// The operands make it undefined: #UD.
    #[error("{0:?} is undefined with these operands")]
    Undefined(Code),
    /// The encoder refused it, or the arena is full: a bug.
    #[error("no stub can be made for {0:?}")]
    Unencodable(Code),
}

/// A value for MXCSR or an XSAVE header with reserved bits set: #GP(0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("reserved bits are set")]
pub struct ReservedBits;
