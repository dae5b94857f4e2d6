//! The local APIC's timer: one-shot, periodic, TSC deadline. It counts nanoseconds of VM time (1 GHz, as KVM's does).

use super::{LVT_MASKED, LocalApic};

const MODE: u32 = 3 << 17;
const PERIODIC: u32 = 1 << 17;
const TSC_DEADLINE: u32 = 2 << 17;

/// Registers of the timer. The LVT entry is kept with the others.
#[derive(Debug, Clone, Default)]
pub(super) struct ApicTimer {
    pub initial: u32,
    pub divide: u32,
    /// VM time at which the current period began.
    pub started: u64,
    /// In guest TSC ticks; 0 = disarmed.
    pub tsc_deadline: u64,
    /// Guest TSC minus VM time in ticks.
    pub tsc_offset: u64,
}

impl ApicTimer {
    /// Nanoseconds per count: 1 to 128.
    fn nanos_per_count(&self) -> u64 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        1 << ((code + 1) & 7)
    }

    fn period(&self) -> u64 {
        u64::from(self.initial) * self.nanos_per_count()
    }

    pub fn start(&mut self, initial: u32, now: u64) {
        self.initial = initial;
        self.started = now;
    }

    pub fn set_divide(&mut self, value: u32, lvt: u32, now: u64) {
        let current = self.current(lvt, now);
        self.divide = value & 0xb;
        // The count goes on from where it is.
        self.started = now.saturating_sub(u64::from(self.initial - current) * self.nanos_per_count());
    }

    pub fn current(&self, lvt: u32, now: u64) -> u32 {
        let period = self.period();
        if period == 0 || lvt & MODE == TSC_DEADLINE {
            return 0;
        }
        let elapsed = now.saturating_sub(self.started);
        let elapsed = if lvt & MODE == PERIODIC { elapsed % period } else { elapsed.min(period) };
        self.initial - (elapsed / self.nanos_per_count()) as u32
    }

    /// Switching to or from TSC-deadline mode disarms the timer.
    pub fn mode_changed(&mut self, old: u32, new: u32) {
        if (old ^ new) & TSC_DEADLINE != 0 {
            self.initial = 0;
            self.tsc_deadline = 0;
        }
    }
}

/// `ticks` of a clock of `hz` in nanoseconds, rounded up.
fn ticks_to_nanos(ticks: u64, hz: u64) -> u64 {
    u64::try_from((u128::from(ticks) * 1_000_000_000).div_ceil(u128::from(hz.max(1)))).unwrap_or(u64::MAX)
}

impl LocalApic {
    /// When the timer expires next, in VM time.
    pub fn timer_deadline(&self, tsc_hz: u64) -> Option<u64> {
        let lvt = self.lvt[0];
        match lvt & MODE {
            TSC_DEADLINE => {
                let deadline = self.timer.tsc_deadline;
                // A deadline before VM time began has passed.
                let ticks = deadline.wrapping_sub(self.timer.tsc_offset);
                let ticks = if ticks > 1 << 63 { 0 } else { ticks };
                (deadline != 0).then(|| ticks_to_nanos(ticks, tsc_hz))
            }
            PERIODIC if lvt & LVT_MASKED != 0 => None,
            _ => (self.timer.initial != 0).then(|| self.timer.started.saturating_add(self.timer.period())),
        }
    }

    /// Fires the timer if it is due at `now`; whether it was.
    pub fn timer_expired(&mut self, now: u64, tsc_hz: u64) -> bool {
        let due = self.timer_deadline(tsc_hz).is_some_and(|deadline| deadline <= now);
        if !due {
            return false;
        }
        let lvt = self.lvt[0];
        match lvt & MODE {
            TSC_DEADLINE => self.timer.tsc_deadline = 0,
            PERIODIC => {
                // Periods missed altogether are skipped: their interrupts would have merged in the IRR.
                let period = self.timer.period().max(1);
                self.timer.started += (now - self.timer.started) / period * period;
            }
            _ => self.timer.initial = 0,
        }
        if lvt & LVT_MASKED == 0 {
            self.receive(lvt as u8, false);
        }
        true
    }

    /// IA32_TSC_DEADLINE.
    pub fn tsc_deadline(&self) -> u64 {
        if self.lvt[0] & MODE == TSC_DEADLINE { self.timer.tsc_deadline } else { 0 }
    }

    /// WRMSR IA32_TSC_DEADLINE; ignored in other modes.
    pub fn set_tsc_deadline(&mut self, deadline: u64) {
        if self.lvt[0] & MODE == TSC_DEADLINE {
            self.timer.tsc_deadline = deadline;
        }
    }

    /// The guest's TSC moved.
    pub fn set_tsc_offset(&mut self, offset: u64) {
        self.timer.tsc_offset = offset;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LocalApic, register};
    use super::*;

    fn apic(lvt: u32) -> LocalApic {
        let mut apic = LocalApic::new(0);
        apic.write(register::SVR, 0x1ff, 0);
        apic.write(register::LVT_TIMER, lvt, 0);
        apic.write(register::TIMER_DIVIDE, 0xb, 0);
        apic
    }

    #[test]
    fn one_shot_fires_once() {
        let mut apic = apic(0x40);
        apic.write(register::TIMER_INITIAL, 1000, 50);
        assert_eq!(apic.read(register::TIMER_CURRENT, 450), 600);
        assert_eq!(apic.timer_deadline(1), Some(1050));
        assert!(!apic.timer_expired(1049, 1));
        assert!(apic.timer_expired(1050, 1));
        assert_eq!(apic.pending(), Some(0x40));
        assert_eq!(apic.timer_deadline(1), None);
    }

    #[test]
    fn periodic_keeps_its_phase() {
        let mut apic = apic(0x40 | PERIODIC);
        apic.write(register::TIMER_INITIAL, 1000, 0);
        assert!(apic.timer_expired(2500, 1));
        assert_eq!(apic.timer_deadline(1), Some(3000));
        assert_eq!(apic.read(register::TIMER_CURRENT, 2600), 400);
    }

    #[test]
    fn deadline_counts_guest_ticks() {
        let mut apic = apic(0x40 | TSC_DEADLINE);
        apic.set_tsc_offset(5_000_000_000);
        apic.set_tsc_deadline(8_000_000_000);
        assert_eq!(apic.timer_deadline(3_000_000_000), Some(1_000_000_000));
        apic.set_tsc_deadline(4_000_000_000);
        assert_eq!(apic.timer_deadline(3_000_000_000), Some(0));
        assert!(apic.timer_expired(0, 3_000_000_000));
        assert_eq!(apic.tsc_deadline(), 0);
    }
}
