//! Reference time: the counter that MSRs show, and the page from which guests compute it without an exit (TLFS 12.7).

use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::Reactor;

/// Reference time counts in units of 100 ns.
const NANOS_PER_UNIT: u64 = 100;
const UNITS_PER_SECOND: u128 = 10_000_000;
/// Any value but 0, which means "do not use the page".
const SEQUENCE: u32 = 1;

/// The clock of a partition. Page and counter are the same function of VM time, because the guest's TSC is one too.
#[derive(Debug, Clone)]
pub(crate) struct ReferenceClock {
    pub reactor: Reactor,
    pub tsc_hz: u64,
}

impl ReferenceClock {
    /// Reference time now.
    pub fn now(&self) -> u64 {
        self.reactor.now().as_nanos() / NANOS_PER_UNIT
    }

    /// Reference time as the page gives it to a guest whose TSC reads `tsc`.
    pub fn at_tsc(&self, tsc: u64) -> u64 {
        ((u128::from(tsc) * u128::from(self.scale())) >> 64) as u64
    }

    /// 2^64 times the units that pass per tick of the TSC, rounded down.
    fn scale(&self) -> u64 {
        let scale = (UNITS_PER_SECOND << 64) / u128::from(self.tsc_hz.max(1));
        u64::try_from(scale).unwrap_or(u64::MAX)
    }

    /// Writes the page. A guest that reads it meanwhile sees sequence 0 and asks the counter.
    pub fn write_page(&self, memory: &GuestMemory, page: u64) {
        // The page was checked to be RAM when the guest named it.
        let _ = memory.write_u32(page, 0);
        let _ = memory.write_u64(page + 8, self.scale());
        let _ = memory.write_u64(page + 16, 0);
        let _ = memory.write_u32(page, SEQUENCE);
    }
}
