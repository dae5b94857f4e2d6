//! The saved form of the clock.

use minicbor::{Decode, Encode};

/// The clock and its memory.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedRtc {
    /// 256 bytes; those of the time count only while it is being set.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub memory: Vec<u8>,
    /// Selected byte of the lower bank; bit 7 as written (NMI mask).
    #[n(1)]
    pub index: u8,
    /// Selected byte of the upper bank.
    #[n(2)]
    pub high_index: u8,
    /// Seconds since 1970 at `epoch`.
    #[n(3)]
    pub seconds: i64,
    /// VM time in nanoseconds at which `seconds` began; may be negative.
    #[n(4)]
    pub epoch: i64,
    /// VM time up to which the flags are computed.
    #[n(5)]
    pub settled: i64,
}
