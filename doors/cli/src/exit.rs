//! Exit codes, the same for every command, and the errors that carry them.

use std::fmt;

/// Tried and failed.
pub const FAILED: u8 = 1;
/// Wrong arguments, or something that this build does not support.
pub const USAGE: u8 = 2;
/// What was named is not there.
pub const NOT_FOUND: u8 = 3;
/// The host or a policy refuses.
pub const REFUSED: u8 = 4;
/// Somebody else uses it, or the name is taken.
pub const CONFLICT: u8 = 5;
/// `boot --no-reboot`: the guest was reset.
pub const GUEST_RESET: u8 = 10;
/// `boot --no-reboot`: the guest's processor shut down.
pub const GUEST_TRIPLE_FAULT: u8 = 11;

/// Why a command ends early.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 2.
    Usage(String),
    /// Exit code 3.
    NotFound(anyhow::Error),
    /// Exit code 4.
    Refused(anyhow::Error),
    /// Exit code 5.
    Conflict(String),
    /// Exit code 1.
    Failed(anyhow::Error),
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Usage(_) => USAGE,
            Failure::NotFound(_) => NOT_FOUND,
            Failure::Refused(_) => REFUSED,
            Failure::Conflict(_) => CONFLICT,
            Failure::Failed(_) => FAILED,
        }
    }

    /// A failed call on a named file, as the exit code that fits.
    pub fn of(error: std::io::Error, what: String) -> Failure {
        let kind = error.kind();
        let error = anyhow::Error::new(error).context(what);
        match kind {
            std::io::ErrorKind::NotFound => Failure::NotFound(error),
            std::io::ErrorKind::PermissionDenied => Failure::Refused(error),
            std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::AddrInUse => {
                Failure::Conflict(format!("{error:#}"))
            }
            _ => Failure::Failed(error),
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
            Failure::Usage(message) | Failure::Conflict(message) => f.write_str(message),
            Failure::NotFound(error) | Failure::Refused(error) | Failure::Failed(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Failed(error)
    }
}
