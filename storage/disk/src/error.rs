//! The one error type of storage: a small stable kind, the context, the source.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Result of a disk operation.
pub type Result<T, E = DiskError> = std::result::Result<T, E>;

/// What went wrong, for code that decides. Stable: callers match on it, new kinds are added at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file, parent or device does not exist.
    NotFound,
    /// The host refused access.
    PermissionDenied,
    /// Somebody else holds the disk (the message names the holder).
    Locked,
    /// A write to a read-only disk.
    ReadOnly,
    /// The range is not inside the disk or file.
    OutOfRange,
    /// Offset or length is no multiple of the sector size.
    Misaligned,
    /// The store is full (also quota and file-size limit). Retry when space is back.
    NoSpace,
    /// The host's storage failed.
    Io,
    /// The image breaks its own format.
    Corrupt,
    /// Valid, but not something this build does (the message says what).
    Unsupported,
    /// The caller asked for something impossible (size, block size, name).
    InvalidInput,
    /// A chain's parent is not where its child says.
    ParentMissing,
    /// A chain's parent is there but is not the one the child was made from.
    ParentChanged,
    /// An earlier flush failed: what is on disk is unknown until the disk is reopened and checked.
    Poisoned,
    /// The image is in a state that forbids this (saved state, children, unfinished merge).
    WrongState,
    /// The operation was cancelled.
    Cancelled,
}

/// An error of storage: "cannot {action} {path} at byte {offset}: {reason}; {advice}".
#[derive(Clone)]
pub struct DiskError(Box<Context>);

#[derive(Clone)]
struct Context {
    kind: ErrorKind,
    action: Cow<'static, str>,
    path: Option<PathBuf>,
    offset: Option<u64>,
    reason: Cow<'static, str>,
    advice: Option<Cow<'static, str>>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl DiskError {
    /// An error of `kind`: what was tried (`"read the footer"`) and why it failed.
    pub fn new(kind: ErrorKind, action: impl Into<Cow<'static, str>>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Context {
            kind,
            action: action.into(),
            path: None,
            offset: None,
            reason: reason.into(),
            advice: None,
            source: None,
        }))
    }

    /// From a host error: the kind follows its number. Its words are the reason, so it is no source: whoever prints an error
    /// with its sources would say them twice.
    pub fn from_io(action: impl Into<Cow<'static, str>>, error: io::Error) -> Self {
        Self::new(kind_of(&error), action, error.to_string())
    }

    /// Corrupt image: what was read and which rule it breaks.
    pub fn corrupt(action: impl Into<Cow<'static, str>>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Corrupt, action, reason)
    }

    /// Names the file (kept if one is already named: the innermost knows best).
    #[must_use]
    pub fn with_path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path.get_or_insert_with(|| path.as_ref().to_owned());
        self
    }

    /// Names the byte offset (kept if one is already named).
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// What the person can do about it.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<Cow<'static, str>>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// The cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// The kind to decide on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file, when known.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The byte offset, when known.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// Why, without the rest of the sentence.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let context = &*self.0;
        write!(f, "cannot {}", context.action)?;
        if let Some(path) = &context.path {
            write!(f, " ({})", path.display())?;
        }
        if let Some(offset) = context.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}", context.reason)?;
        if let Some(advice) = &context.advice {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl Error for DiskError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}

fn kind_of(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => ErrorKind::NoSpace,
        io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        io::ErrorKind::Unsupported => ErrorKind::Unsupported,
        io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy => ErrorKind::Locked,
        io::ErrorKind::UnexpectedEof => ErrorKind::OutOfRange,
        _ => ErrorKind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_where_why_and_what_to_do() {
        let error = DiskError::from_io("write 4096 bytes", io::Error::from_raw_os_error(28))
            .with_path("/d/a.vhd")
            .with_path("/other")
            .at(512)
            .advise("free space on the store");
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        let text = error.to_string();
        assert!(text.starts_with("cannot write 4096 bytes (/d/a.vhd) at byte 512: "), "{text}");
        assert!(text.ends_with("; free space on the store"), "{text}");
        assert_eq!(text.matches("os error").count(), 1, "{text}");
        assert!(error.source().is_none(), "its words would be printed twice");
    }
}
