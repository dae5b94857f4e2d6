//! Between the live `Cpu` and the contract's `VpState`.

use crate::apic::LocalApic;
use crate::cpu::{Cpu, Exception, Msrs, rflags};
use crate::features::Features;
use crate::mmu::is_canonical;
use crate::shared::request;
use bulkhead_engine::{EngineError, PendingException, Segment, VpState, msr};
use std::sync::atomic::Ordering;

/// Refuses states that no VP of this engine can be in.
pub(crate) fn check(index: u32, state: &VpState, features: &Features) -> Result<(), EngineError> {
    let bad = |reason: String| Err(EngineError::BadState { index, reason });
    if state.cr4 & !features.cr4 != 0 {
        return bad(format!("CR4 {:#x} has bits that the VM's CPUID does not offer", state.cr4));
    }
    if state.efer & !features.efer != 0 {
        return bad(format!("EFER {:#x} has bits that the VM's CPUID does not offer", state.efer));
    }
    if state.xcr0 & !(features.xcr0 | 1) != 0 || state.xcr0 & 1 == 0 {
        return bad(format!("XCR0 {:#x} is not one of the VM's CPUID", state.xcr0));
    }
    let long = state.efer & 1 << 10 != 0;
    if long && (state.cr0 & 1 << 31 == 0 || state.cr4 & 1 << 5 == 0) {
        return bad("EFER.LMA without CR0.PG and CR4.PAE".into());
    }
    if state.cr0 & 1 << 31 != 0 && state.cr0 & 1 == 0 {
        return bad("CR0.PG without CR0.PE".into());
    }
    let code64 = long && state.segments[1].attributes & Segment::LONG != 0;
    if code64 && !is_canonical(state.rip) || !code64 && state.rip >> 32 != 0 {
        return bad(format!("RIP {:#x} is no address of its mode", state.rip));
    }
    Ok(())
}

/// The CPL of a saved state: that of the stack segment (SDM vol. 3, 5.5).
fn privilege(state: &VpState) -> u8 {
    if state.cr0 & 1 == 0 {
        0
    } else if state.rflags & rflags::VM != 0 {
        3
    } else {
        state.segments[2].dpl()
    }
}

impl Cpu {
    /// The complete state.
    pub(crate) fn save(&mut self) -> VpState {
        let now = self.vm_time();
        let mut apic = self.shared().apic.lock();
        let apic_state = apic.save(now);
        drop(apic);
        let mut state = VpState::power_on(self.index as u32, 0);
        state.gpr.copy_from_slice(&self.regs[..16]);
        state.rip = self.rip();
        state.rflags = self.rflags();
        for (saved, register) in state.segments.iter_mut().zip(&self.segments) {
            *saved = (*register).into();
        }
        // The stack segment's DPL is the CPL, also where real mode leaves something else there.
        if self.cr0 & 1 != 0 {
            let dpl = &mut state.segments[2].attributes;
            *dpl = *dpl & !0x60 | u16::from(self.cpl) << 5;
        }
        state.ldtr = self.ldtr.into();
        state.tr = self.tr.into();
        state.gdtr = self.gdtr;
        state.idtr = self.idtr;
        (state.cr0, state.cr2, state.cr3, state.cr4) = (self.cr0, self.cr2, self.cr3, self.cr4);
        state.dr = self.dr;
        (state.efer, state.xcr0) = (self.efer, self.xcr0);
        state.xsave = self.native.to_xsave();
        state.msrs = msr::SAVED.iter().filter_map(|&number| Some((number, self.own_msr(number)?))).collect();
        state.msrs.sort_unstable();
        state.apic_base = self.apic_base;
        state.apic = apic_state;
        state.tsc_offset = self.tsc_offset;
        state.activity = self.activity;
        state.shadow = self.shadow;
        state.nmi_blocked = self.nmi_blocked;
        state.nmi_pending = self.shared().nmi.load(Ordering::SeqCst);
        state.pending_exception = self.pending_exception.map(|exception| PendingException {
            vector: exception.vector,
            error_code: exception.error_code,
            payload: exception.payload,
        });
        state
    }

    /// Replaces the complete state, which was checked.
    pub(crate) fn restore(&mut self, state: &VpState) {
        self.regs[..16].copy_from_slice(&state.gpr);
        self.set_rip(state.rip);
        self.set_rflags(state.rflags);
        for (register, saved) in self.segments.iter_mut().zip(&state.segments) {
            *register = (*saved).into();
        }
        self.ldtr = state.ldtr.into();
        self.tr = state.tr.into();
        self.gdtr = state.gdtr;
        self.idtr = state.idtr;
        (self.cr0, self.cr2, self.cr3, self.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
        self.dr = state.dr;
        (self.efer, self.xcr0) = (state.efer, state.xcr0);
        self.native.load_xsave(&state.xsave);
        self.restore_msrs(state);
        self.apic_base = state.apic_base;
        self.tsc_offset = state.tsc_offset;
        self.activity = state.activity;
        self.shadow = state.shadow;
        self.nmi_blocked = state.nmi_blocked;
        self.pending_exception = state.pending_exception.map(|pending| Exception {
            vector: pending.vector,
            error_code: pending.error_code,
            payload: pending.payload,
        });
        self.cpl = privilege(state);
        self.breakpoints_met = 0;
        let shared = self.shared();
        *shared.apic.lock() = LocalApic::restore(&state.apic, state.apic_base, self.index as u32, state.tsc_offset);
        shared.nmi.store(state.nmi_pending, Ordering::SeqCst);
        shared.request(request::INTERRUPT | request::MAP);
        self.flush_tlb();
        self.update_mode();
    }

    fn restore_msrs(&mut self, state: &VpState) {
        let get = |number| state.msr(number).unwrap_or(0);
        let mut fixed = [0; 11];
        let numbers = [0x250, 0x258, 0x259].into_iter().chain(0x268..=0x26f);
        fixed.iter_mut().zip(numbers).for_each(|(value, number)| *value = get(number));
        self.msrs = Msrs {
            star: get(msr::STAR),
            lstar: get(msr::LSTAR),
            cstar: get(msr::CSTAR),
            syscall_mask: get(msr::SYSCALL_MASK),
            kernel_gs_base: get(msr::KERNEL_GS_BASE),
            tsc_aux: get(msr::TSC_AUX),
            sysenter: [get(msr::SYSENTER_CS), get(msr::SYSENTER_ESP), get(msr::SYSENTER_EIP)],
            pat: get(msr::PAT),
            misc_enable: get(msr::MISC_ENABLE),
            spec_ctrl: get(msr::SPEC_CTRL),
            tsc_adjust: get(msr::TSC_ADJUST),
            mtrr_def_type: get(msr::MTRR_DEF_TYPE),
            mtrr_variable: std::array::from_fn(|index| get(0x200 + index as u32)),
            mtrr_fixed: fixed,
        };
    }
}
