//! What can go wrong between the worker and an engine.

/// Why an engine could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The engine cannot run on this host at all.
    #[error("the {engine} engine cannot be used on this host: {reason}")]
    Unavailable {
        /// Name of the engine.
        engine: &'static str,
        /// What is missing and what to do about it.
        reason: String,
    },
    /// The engine exists but lacks what was asked for.
    #[error("the {engine} engine does not support {what}")]
    Unsupported {
        /// Name of the engine.
        engine: &'static str,
        /// The ability that is missing.
        what: String,
    },
    /// A guest-physical range that cannot be mapped as asked.
    #[error("cannot map guest memory {start:#x}..{end:#x}: {reason}")]
    BadMapping {
        /// First guest-physical address.
        start: u64,
        /// First address behind the range.
        end: u64,
        /// The rule that the range breaks.
        reason: &'static str,
    },
    /// A VP index out of range, or a VP made twice.
    #[error("virtual processor {index}: {reason}")]
    BadVp {
        /// The VP's index.
        index: u32,
        /// The rule that was broken.
        reason: &'static str,
    },
    /// A VP state that this engine cannot hold.
    #[error("cannot load the state of virtual processor {index}: {reason}")]
    BadState {
        /// The VP's index.
        index: u32,
        /// The field and the rule that it breaks.
        reason: String,
    },
    /// The engine met an instruction or condition that it can neither execute nor turn into a guest exception.
    #[error("virtual processor {index} cannot go on at {rip:#x}: {reason}")]
    Stuck {
        /// The VP's index.
        index: u32,
        /// Guest instruction pointer.
        rip: u64,
        /// What was met, with the instruction bytes where known.
        reason: String,
    },
    /// A system call of the host failed.
    #[error("{operation} failed")]
    Host {
        /// The call and its arguments.
        operation: String,
        /// The host's error.
        #[source]
        source: std::io::Error,
    },
}
