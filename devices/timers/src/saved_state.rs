//! Saved forms of the timers. Times are VM time in nanoseconds, ticks are periods of the 8254's clock since the start of VM time.

use minicbor::{Decode, Encode};

/// The 8254 and port 61h.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedPit {
    /// Three counters.
    #[n(0)]
    pub counters: Vec<SavedCounter>,
    /// The four writable bits of port 61h.
    #[n(1)]
    pub control: u8,
    /// The tick of the next interrupt.
    #[n(2)]
    pub next_edge: Option<u64>,
    /// Level of the interrupt line.
    #[n(3)]
    pub line: bool,
}

/// One counter of the 8254.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct SavedCounter {
    /// 0 to 5.
    #[n(0)]
    pub mode: u8,
    /// Counts in decimal.
    #[n(1)]
    pub bcd: bool,
    /// 1 = low byte, 2 = high byte, 3 = both.
    #[n(2)]
    pub access: u8,
    /// Level of the gate.
    #[n(3)]
    pub gate: bool,
    /// The initial count, 1 to 65536, once written.
    #[n(4)]
    pub count: Option<u32>,
    /// The tick at which counting began.
    #[n(5)]
    pub start: Option<u64>,
    /// Ticks counted when the gate stopped the counter.
    #[n(6)]
    pub held: Option<u64>,
    /// A count written meanwhile, and the tick at which it takes effect.
    #[n(7)]
    pub next: Option<(u32, u64)>,
    /// The low byte of a count whose high byte is still to come.
    #[n(8)]
    pub low_byte: Option<u8>,
    /// The next read gives the high byte.
    #[n(9)]
    pub read_high: bool,
    /// Latched count.
    #[n(10)]
    pub latch: Option<u16>,
    /// Latched status.
    #[n(11)]
    pub status: Option<u8>,
}

/// The HPET.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedHpet {
    /// General configuration.
    #[n(0)]
    pub config: u8,
    /// Interrupt status.
    #[n(1)]
    pub status: u8,
    /// The main counter at `anchor`.
    #[n(2)]
    pub base: u64,
    /// Time from which the counter counts.
    #[n(3)]
    pub anchor: u64,
    /// Three comparators.
    #[n(4)]
    pub comparators: Vec<SavedComparator>,
}

/// One comparator of the HPET.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct SavedComparator {
    /// The writable bits of its configuration.
    #[n(0)]
    pub config: u32,
    /// The value to compare with.
    #[n(1)]
    pub value: u64,
    /// What is added after a match in periodic mode.
    #[n(2)]
    pub period: u64,
    /// Time of the next match.
    #[n(3)]
    pub due: Option<u64>,
}
