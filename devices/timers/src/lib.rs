//! Timers of a PC: the 8254 interval timer with port 61h ([`Pit`]) and the high-precision event timer ([`Hpet`]).
//!
//! Counts are computed from VM time when somebody looks; the host only wakes for the edges of an armed interrupt.
//! The lines of the PIT and of the RTC lead through the HPET, whose legacy mode takes their places at IRQ 0 and IRQ 8.
//! Documents: Intel 8254; IA-PC HPET 1.0a.

#[doc(hidden)]
pub mod fuzz;
mod hpet;
mod pit;
mod saved_state;

pub use hpet::{Hpet, HpetLines};
pub use pit::Pit;
pub use saved_state::{SavedComparator, SavedCounter, SavedHpet, SavedPit};

use std::time::Duration;

/// The shortest time between two wake-ups of the host for one timer. Shorter periods of a guest become fewer interrupts.
const SHORTEST_SLEEP: Duration = Duration::from_micros(25);
