//! How a VP reaches its own local APIC: the register page, MSRs 0x800–0x8ff, CR8.

use super::{Effect, base, register};
use crate::cpu::Cpu;
use crate::shared::request;

impl Cpu {
    /// Whether a device page is this VP's local APIC.
    pub(crate) fn is_local_apic(&self, gpa: u64) -> bool {
        let base = self.apic_base;
        base & (base::ENABLED | base::X2APIC) == base::ENABLED && (base ^ gpa) & 0xff_ffff_f000 == 0
    }

    /// A read of the register page. Registers are 32 bits wide and 16 bytes apart.
    pub(crate) fn local_apic_read(&mut self, gpa: u64, bytes: &mut [u8]) {
        let offset = gpa as u32 & 0xfff;
        let now = self.vm_time();
        let value = self.shared().apic.lock().read(offset & !15, now).to_le_bytes();
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = value.get((offset as usize & 15) + at).copied().unwrap_or(0);
        }
    }

    /// A write to the register page; only aligned 32-bit writes have an effect.
    pub(crate) fn local_apic_write(&mut self, gpa: u64, bytes: &[u8]) {
        let offset = gpa as u32 & 0xfff;
        let Some(&[a, b, c, d]) = bytes.first_chunk::<4>() else { return };
        if offset & 15 != 0 || offset == register::SELF_IPI {
            return;
        }
        let now = self.vm_time();
        let effect = self.shared().apic.lock().write(offset, u32::from_le_bytes([a, b, c, d]), now);
        self.apply(effect);
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::None | Effect::Illegal => {}
            Effect::Recheck => self.shared().request(request::INTERRUPT),
            Effect::Eoi(vector) => {
                self.exit(|exits| exits.end_of_interrupt(vector));
                self.shared().request(request::INTERRUPT);
            }
            Effect::Send(icr) => {
                self.events.ipis += 1;
                let x2apic = self.apic_base & base::X2APIC != 0;
                self.partition.send_ipi(self.index, icr, x2apic);
            }
            Effect::Timer => {
                self.partition.arm_apic_timer(self.index);
                self.timer_armed();
            }
        }
    }

    /// RDMSR 0x800–0x8ff; `None` is #GP.
    pub(crate) fn x2apic_read(&mut self, msr: u32) -> Option<u64> {
        let offset = (msr & 0xff) << 4;
        let now = self.vm_time();
        let mut apic = self.shared().apic.lock();
        if !apic.is_x2apic() || !is_x2apic_readable(offset) {
            return None;
        }
        let low = u64::from(apic.read(offset, now));
        if offset == register::ICR {
            Some(u64::from(apic.read(register::ICR_HIGH, now)) << 32 | low)
        } else {
            Some(low)
        }
    }

    /// WRMSR 0x800–0x8ff; `None` is #GP.
    pub(crate) fn x2apic_write(&mut self, msr: u32, value: u64) -> Option<()> {
        let offset = (msr & 0xff) << 4;
        let now = self.vm_time();
        let mut apic = self.shared().apic.lock();
        if !apic.is_x2apic() {
            return None;
        }
        let effect = match offset {
            register::ICR => apic.write_icr(value),
            _ if value >> 32 != 0 => Effect::Illegal,
            register::SELF_IPI => Effect::Send(1 << 18 | value & 0xff),
            register::EOI | register::ESR if value != 0 => Effect::Illegal,
            register::TPR
            | register::EOI
            | register::SVR
            | register::ESR
            | register::TIMER_INITIAL
            | register::TIMER_DIVIDE
            | register::LVT_TIMER..=register::LVT_ERROR => apic.write(offset, value as u32, now),
            _ => Effect::Illegal,
        };
        drop(apic);
        if effect == Effect::Illegal {
            return None;
        }
        self.apply(effect);
        Some(())
    }

    /// MOV from CR8.
    pub(crate) fn cr8(&self) -> u64 {
        self.shared().apic.lock().cr8()
    }

    /// MOV to CR8.
    pub(crate) fn set_cr8(&mut self, value: u64) {
        let shared = self.shared();
        shared.apic.lock().set_cr8(value);
        shared.request(request::INTERRUPT);
    }

    /// IA32_APIC_BASE; `false` is #GP.
    pub(crate) fn set_apic_base(&mut self, value: u64) -> bool {
        let known = base::BSP | base::X2APIC | base::ENABLED;
        let address = ((1 << bulkhead_engine::cpu_model::PHYSICAL_BITS) - 1) & !0xfff;
        let x2apic = value & base::X2APIC != 0;
        let legal = value & !(known | address) == 0
            && !(x2apic && (value & base::ENABLED == 0 || !self.features.x2apic))
            && !(self.apic_base & base::X2APIC != 0 && !x2apic && value & base::ENABLED != 0);
        if !legal {
            return false;
        }
        self.apic_base = value & !base::BSP | self.apic_base & base::BSP;
        self.shared().apic.lock().base = self.apic_base;
        self.flush_tlb();
        self.shared().request(request::INTERRUPT);
        true
    }
}

fn is_x2apic_readable(offset: u32) -> bool {
    matches!(offset, register::ID | register::VERSION | register::TPR | register::PPR | register::LDR | register::SVR
        | 0x100..=0x280 | register::ICR | register::LVT_TIMER..=register::TIMER_CURRENT | register::TIMER_DIVIDE)
}
