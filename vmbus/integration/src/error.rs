//! Why a service could not do what it was asked.

use std::time::Duration;

/// Why a service could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The guest has not answered the negotiation.
    #[error(
        "the guest does not take part in the service {service}: it has no driver for it, or its daemon does not run; \
         on Debian install hyperv-daemons"
    )]
    NotReady {
        /// Which service.
        service: &'static str,
    },
    /// Another request of the same kind is in the works.
    #[error("the service {service} is busy with {what}; wait for it to end")]
    Busy {
        /// Which service.
        service: &'static str,
        /// What it does.
        what: &'static str,
    },
    /// No reply in time.
    #[error("the guest did not answer the service {service} within {} s", .within.as_secs())]
    TimedOut {
        /// Which service.
        service: &'static str,
        /// How long was waited.
        within: Duration,
    },
    /// The guest replied with an error.
    #[error("the guest refused {what} with status {status:#010x} ({})", status_text(*.status))]
    Refused {
        /// What was asked.
        what: &'static str,
        /// Its HRESULT.
        status: u32,
    },
    /// The channel was closed meanwhile.
    #[error("the guest closed the service {service} in the middle of {what}")]
    Closed {
        /// Which service.
        service: &'static str,
        /// What was going on.
        what: &'static str,
    },
    /// The guest's reply makes no sense.
    #[error("the guest's answer to {what} cannot be read: {why}")]
    Malformed {
        /// What was asked.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A value that cannot be sent.
    #[error("{what} has {len} UTF-16 units; the limit is {most}")]
    TooLong {
        /// Which value.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The longest possible.
        most: usize,
    },
    /// No such key.
    #[error("the guest has no key {key} in this pool")]
    NoKey {
        /// Which.
        key: String,
    },
    /// What is to be copied cannot be read.
    #[error("the file to copy cannot be read at {offset}: {why}")]
    Source {
        /// Where.
        offset: u64,
        /// The host's error.
        why: String,
    },
}

/// Success.
pub(crate) const STATUS_OK: u32 = 0;
/// E_FAIL.
pub(crate) const STATUS_FAILED: u32 = 0x8000_4005;
/// ERROR_NO_MORE_ITEMS as HRESULT: the end of an enumeration.
pub(crate) const STATUS_NO_MORE: u32 = 0x8007_0103;

fn status_text(status: u32) -> &'static str {
    match status {
        STATUS_FAILED => "unspecified failure",
        STATUS_NO_MORE => "no more items",
        0x8007_0002 => "not found",
        0x8007_0050 => "the file exists",
        0x8007_0070 => "the disk is full",
        0x8004_1002 => "no such adapter",
        0x8007_0005 => "access denied",
        _ => "see the Windows error codes",
    }
}
