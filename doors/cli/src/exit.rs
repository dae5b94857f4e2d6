//! Exit codes, the same for every command, and the errors that carry them.

use std::fmt;

/// Tried and failed.
pub const FAILED: u8 = 1;
/// Wrong arguments, or something that this build does not support.
pub const USAGE: u8 = 2;
/// `boot --no-reboot`: the guest was reset.
pub const GUEST_RESET: u8 = 10;
/// `boot --no-reboot`: the guest's processor shut down.
pub const GUEST_TRIPLE_FAULT: u8 = 11;

/// Why a command ends early.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 2.
    Usage(String),
    /// Exit code 1.
    Failed(anyhow::Error),
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Usage(_) => USAGE,
            Failure::Failed(_) => FAILED,
        }
    }

    /// The refusal of something that is in the design but not in this build.
    pub fn unsupported(what: &str, supported: &str) -> Failure {
        Failure::Usage(format!("{what} is not supported by this build; {supported}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(message) => f.write_str(message),
            Failure::Failed(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Failed(error)
    }
}
