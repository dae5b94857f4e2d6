//! Between blocks: requests of others, and which interrupt comes next.

use crate::cpu::{Cpu, rflags};
use crate::exception::TripleFault;
use crate::shared::{INIT, PageEvent, request};
use bulkhead_engine::{Activity, InterruptShadow, VpState};
use std::sync::atomic::Ordering;

impl Cpu {
    /// Serves all requests. `true` if the VP was kicked.
    #[cold]
    pub(crate) fn serve_requests(&mut self) -> Result<bool, TripleFault> {
        self.serve_memory_requests();
        let requests = self.shared().requests.load(Ordering::SeqCst);
        if requests & request::STOP != 0 {
            self.partition.leave_guest(self.index);
            self.partition.enter_guest(self.index);
            self.serve_memory_requests();
        }
        if requests & request::PAGES != 0 {
            self.shared().requests.fetch_and(!request::PAGES, Ordering::SeqCst);
            for event in self.shared().take_page_events() {
                self.page_event(event);
            }
        }
        if requests & request::INTERRUPT != 0 {
            self.shared().requests.fetch_and(!request::INTERRUPT, Ordering::SeqCst);
            self.look_for_interrupts()?;
        }
        if requests & request::KICK != 0 {
            self.shared().requests.fetch_and(!request::KICK, Ordering::SeqCst);
            return Ok(true);
        }
        Ok(false)
    }

    fn page_event(&mut self, event: PageEvent) {
        match event {
            PageEvent::Written(page, granules) => self.cache.forget(page, granules),
            PageEvent::Protect(page) => {
                if self.mmu.forbid_writes(page) {
                    // We may have written to it since: whoever decoded from it must look again.
                    let hit = self.partition.code_written(Some(self.index), page, u64::MAX);
                    self.cache.forget(page, hit);
                }
            }
        }
    }

    /// Whether maskable interrupts are accepted now.
    pub(crate) fn accepts_interrupts(&self) -> bool {
        self.system_flags & rflags::IF != 0 && self.shadow == InterruptShadow::None
    }

    /// Takes the most important event that can be taken now.
    pub(crate) fn look_for_interrupts(&mut self) -> Result<(), TripleFault> {
        let shared = self.shared();
        let start = shared.start.swap(0, Ordering::SeqCst);
        if start & INIT != 0 {
            self.init();
        }
        let vector = start & !INIT;
        if vector != 0 && self.activity == Activity::WaitForSipi {
            self.start_up((vector - 1) as u8);
        }
        if self.activity == Activity::WaitForSipi {
            return Ok(());
        }
        self.interrupt_waiting = false;
        let shared = self.shared();
        if shared.nmi.load(Ordering::SeqCst) {
            if self.nmi_blocked || self.shadow == InterruptShadow::MovSs {
                self.interrupt_waiting = true;
            } else {
                shared.nmi.store(false, Ordering::SeqCst);
                self.nmi_blocked = true;
                self.activity = Activity::Running;
                self.interrupt_waiting = true;
                return self.deliver_interrupt(crate::cpu::vector::NMI);
            }
        }
        let Some(source) = self.interrupt_source() else { return Ok(()) };
        // Whatever happens now: another one may wait behind it.
        self.interrupt_waiting = true;
        if !self.accepts_interrupts() {
            return Ok(());
        }
        let vector = match source {
            Source::Apic(vector) => {
                self.shared().apic.lock().acknowledge(vector);
                Some(vector)
            }
            Source::Pic => self.acknowledge_pic(),
        };
        let Some(vector) = vector else { return Ok(()) };
        self.activity = Activity::Running;
        self.deliver_interrupt(vector)
    }

    fn interrupt_source(&self) -> Option<Source> {
        let apic = self.shared().apic.lock();
        if self.index == 0 && self.partition.ext_int.load(Ordering::SeqCst) && apic.passes_ext_int() {
            return Some(Source::Pic);
        }
        apic.pending().map(Source::Apic)
    }

    fn acknowledge_pic(&mut self) -> Option<u8> {
        let vector = self.exit(|exits| exits.acknowledge_ext_int()).flatten();
        if vector.is_none() {
            // Spurious: the line went away meanwhile.
            self.partition.ext_int.store(false, Ordering::SeqCst);
        }
        vector
    }

    /// INIT: everything as after reset but caches, MSRs, x87 and SSE (SDM table 10-1).
    fn init(&mut self) {
        let signature = self.partition.cpuid.get(1, 0).eax;
        let mut state = VpState::power_on(self.index as u32, signature);
        let old = self.save();
        state.xsave = old.xsave;
        state.xcr0 = old.xcr0;
        state.msrs = old.msrs;
        state.tsc_offset = old.tsc_offset;
        state.apic_base = old.apic_base;
        state.cr0 |= old.cr0 & 0x6000_0000;
        let bootstrap = old.apic_base & 0x100 != 0;
        state.activity = if bootstrap { Activity::Running } else { Activity::WaitForSipi };
        let mut apic = self.shared().apic.lock().clone();
        apic.init();
        state.apic = apic.save(0);
        self.restore(&state);
        self.partition.arm_apic_timer(self.index);
    }

    /// A start-up IPI.
    fn start_up(&mut self, vector: u8) {
        self.segments[1].selector = u16::from(vector) << 8;
        self.segments[1].base = u64::from(vector) << 12;
        self.set_rip(0);
        self.activity = Activity::Running;
        self.forget_addresses();
        self.update_mode();
    }
}

/// Where the next maskable interrupt comes from.
enum Source {
    Apic(u8),
    Pic,
}
