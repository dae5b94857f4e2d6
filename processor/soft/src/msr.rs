//! Model-specific registers, and the time-stamp counter.

use crate::cpu::Cpu;
use crate::mmu::is_canonical;
use bulkhead_engine::msr;

/// Variable MTRR pairs.
const MTRR_VARIABLE: u64 = 8;
/// Write-combining, fixed ranges, and the number of variable pairs.
const MTRR_CAP: u64 = 1 << 10 | 1 << 8 | MTRR_VARIABLE;

/// Index of a fixed-range MTRR.
fn fixed_mtrr(number: u32) -> Option<usize> {
    match number {
        0x250 => Some(0),
        0x258 | 0x259 => Some(1 + (number - 0x258) as usize),
        0x268..=0x26f => Some(3 + (number - 0x268) as usize),
        _ => None,
    }
}

/// Whether every byte is a memory type: 0, 1, 4, 5, 6, and for the PAT 7.
fn are_memory_types(value: u64, pat: bool) -> bool {
    value.to_le_bytes().iter().all(|&kind| matches!(kind, 0 | 1 | 4 | 5 | 6) || pat && kind == 7)
}

impl Cpu {
    /// VM time in nanoseconds, as this VP sees it: in deterministic mode instructions of the current run count.
    pub(crate) fn vm_time(&self) -> u64 {
        self.partition.reactor.now().as_nanos() + self.uncounted()
    }

    /// Instructions that the reactor does not know of yet.
    fn uncounted(&self) -> u64 {
        if self.partition.deterministic { (self.budget_start - self.budget) as u64 } else { 0 }
    }

    /// The guest's TSC.
    pub(crate) fn tsc(&self) -> u64 {
        // In deterministic mode the TSC runs at one tick per instruction.
        self.partition.ticks().wrapping_add(self.uncounted()).wrapping_add(self.tsc_offset)
    }

    /// Moves the guest's TSC.
    pub(crate) fn set_tsc_offset(&mut self, offset: u64) {
        self.tsc_offset = offset;
        self.shared().apic.lock().set_tsc_offset(offset);
        self.partition.arm_apic_timer(self.index);
    }

    /// An MSR that the engine keeps; `None`: it is not one of those.
    pub(crate) fn own_msr(&self, number: u32) -> Option<u64> {
        Some(match number {
            msr::TSC => self.tsc(),
            msr::APIC_BASE => self.apic_base,
            msr::TSC_ADJUST => self.msrs.tsc_adjust,
            msr::SPEC_CTRL => self.msrs.spec_ctrl,
            msr::MTRR_CAP => MTRR_CAP,
            msr::SYSENTER_CS..=msr::SYSENTER_EIP => self.msrs.sysenter[(number - msr::SYSENTER_CS) as usize],
            msr::MISC_ENABLE => self.msrs.misc_enable,
            msr::PAT => self.msrs.pat,
            msr::MTRR_DEF_TYPE => self.msrs.mtrr_def_type,
            0x200..=0x20f => self.msrs.mtrr_variable[(number - 0x200) as usize],
            msr::TSC_DEADLINE if self.features.tsc_deadline => self.shared().apic.lock().tsc_deadline(),
            msr::EFER => self.efer,
            msr::STAR => self.msrs.star,
            msr::LSTAR => self.msrs.lstar,
            msr::CSTAR => self.msrs.cstar,
            msr::SYSCALL_MASK => self.msrs.syscall_mask,
            msr::FS_BASE => self.segments[4].base,
            msr::GS_BASE => self.segments[5].base,
            msr::KERNEL_GS_BASE => self.msrs.kernel_gs_base,
            msr::TSC_AUX => self.msrs.tsc_aux,
            _ => return fixed_mtrr(number).map(|index| self.msrs.mtrr_fixed[index]),
        })
    }

    /// RDMSR; `None` is #GP(0).
    pub(crate) fn read_msr(&mut self, number: u32) -> Option<u64> {
        self.events.msrs += 1;
        if (0x800..0x900).contains(&number) {
            return self.x2apic_read(number);
        }
        match self.own_msr(number) {
            Some(value) => Some(value),
            None if number == msr::TIME_REF_COUNT => {
                let tsc = self.tsc();
                self.exit(|exits| exits.reference_count(tsc)).flatten()
            }
            None => self.exit(|exits| exits.msr_read(number)).flatten(),
        }
    }

    /// WRMSR; `None` is #GP(0).
    pub(crate) fn write_msr(&mut self, number: u32, value: u64) -> Option<()> {
        self.events.msrs += 1;
        let legal = |condition: bool| condition.then_some(());
        match number {
            0x800..=0x8ff => return self.x2apic_write(number, value),
            msr::TSC => {
                let offset = value.wrapping_sub(self.tsc().wrapping_sub(self.tsc_offset));
                self.msrs.tsc_adjust = self.msrs.tsc_adjust.wrapping_add(offset.wrapping_sub(self.tsc_offset));
                self.set_tsc_offset(offset);
            }
            msr::APIC_BASE => return legal(self.set_apic_base(value)),
            msr::TSC_ADJUST => {
                let moved = value.wrapping_sub(self.msrs.tsc_adjust);
                self.msrs.tsc_adjust = value;
                self.set_tsc_offset(self.tsc_offset.wrapping_add(moved));
            }
            msr::SPEC_CTRL => self.msrs.spec_ctrl = value & 7,
            msr::MTRR_CAP => return None,
            msr::SYSENTER_CS => self.msrs.sysenter[0] = value & 0xffff_ffff,
            msr::SYSENTER_ESP | msr::SYSENTER_EIP => {
                legal(is_canonical(value))?;
                self.msrs.sysenter[(number - msr::SYSENTER_CS) as usize] = value;
            }
            msr::MISC_ENABLE => self.msrs.misc_enable = value,
            msr::PAT => {
                legal(are_memory_types(value, true))?;
                self.msrs.pat = value;
            }
            msr::MTRR_DEF_TYPE => {
                legal(value & !0xcff == 0 && are_memory_types(value & 0xff, false))?;
                self.msrs.mtrr_def_type = value;
            }
            0x200..=0x20f => self.msrs.mtrr_variable[(number - 0x200) as usize] = value,
            msr::TSC_DEADLINE if self.features.tsc_deadline => {
                self.shared().apic.lock().set_tsc_deadline(value);
                self.partition.arm_apic_timer(self.index);
                self.timer_armed();
            }
            msr::EFER => return self.write_efer(value),
            msr::STAR => self.msrs.star = value,
            msr::LSTAR | msr::CSTAR | msr::FS_BASE | msr::GS_BASE | msr::KERNEL_GS_BASE => {
                legal(is_canonical(value))?;
                *(match number {
                    msr::LSTAR => &mut self.msrs.lstar,
                    msr::CSTAR => &mut self.msrs.cstar,
                    msr::FS_BASE => &mut self.segments[4].base,
                    msr::GS_BASE => &mut self.segments[5].base,
                    _ => &mut self.msrs.kernel_gs_base,
                }) = value;
            }
            msr::SYSCALL_MASK => self.msrs.syscall_mask = value & 0xffff_ffff,
            msr::TSC_AUX => self.msrs.tsc_aux = value & 0xffff_ffff,
            _ => match fixed_mtrr(number) {
                Some(index) => {
                    legal(are_memory_types(value, false))?;
                    self.msrs.mtrr_fixed[index] = value;
                }
                None => return self.exit(|exits| exits.msr_write(number, value)).flatten(),
            },
        }
        Some(())
    }

    fn write_efer(&mut self, value: u64) -> Option<()> {
        const LME: u64 = 1 << 8;
        const LMA: u64 = 1 << 10;
        let paging = self.cr0 & 1 << 31 != 0;
        if value & !self.features.efer != 0 || paging && (self.efer ^ value) & LME != 0 {
            return None;
        }
        let new = value & !LMA | self.efer & LMA;
        if (self.efer ^ new) & 1 << 11 != 0 {
            self.flush_tlb();
        }
        self.efer = new;
        self.update_mode();
        Some(())
    }
}
