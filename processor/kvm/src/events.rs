//! Pending events, activity, and the local APIC with its timer.

use bulkhead_engine::{
    APIC_TIMER_HZ, Activity, EngineError, InterruptShadow, PartitionConfig, PendingException, VpState, msr,
};
use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED, KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, KVM_X86_SHADOW_INT_MOV_SS,
    KVM_X86_SHADOW_INT_STI, kvm_lapic_state, kvm_mp_state,
};
use kvm_ioctls::VcpuFd;

use crate::{host_error, msrs};

const LVT_TIMER: usize = 0x320;
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
const DIVIDE: usize = 0x3e0;
const IRR: usize = 0x200;
const MODE_TSC_DEADLINE: u32 = 2;

pub fn save(vcpu: &VcpuFd, state: &mut VpState) -> Result<(), EngineError> {
    let mp = vcpu.get_mp_state().map_err(host_error("KVM_GET_MP_STATE"))?;
    state.activity = match mp.mp_state {
        KVM_MP_STATE_HALTED => Activity::Halted,
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED | KVM_MP_STATE_SIPI_RECEIVED => Activity::WaitForSipi,
        _ => Activity::Running,
    };
    let events = vcpu.get_vcpu_events().map_err(host_error("KVM_GET_VCPU_EVENTS"))?;
    state.shadow = match u32::from(events.interrupt.shadow) {
        shadow if shadow & KVM_X86_SHADOW_INT_MOV_SS != 0 => InterruptShadow::MovSs,
        shadow if shadow & KVM_X86_SHADOW_INT_STI != 0 => InterruptShadow::Sti,
        _ => InterruptShadow::None,
    };
    state.nmi_blocked = events.nmi.masked != 0;
    state.nmi_pending = events.nmi.pending != 0 || events.nmi.injected != 0;
    let exception = events.exception;
    state.pending_exception = (exception.injected != 0 || exception.pending != 0).then(|| PendingException {
        vector: exception.nr,
        error_code: (exception.has_error_code != 0).then_some(exception.error_code),
        payload: if events.exception_has_payload != 0 { events.exception_payload } else { state.cr2 },
    });
    if events.interrupt.injected != 0 && events.interrupt.soft == 0 {
        // Accepted but not yet delivered. The architecture has no such state: it goes back to where it came from.
        give_back(state, events.interrupt.nr);
    }
    Ok(())
}

/// Puts an accepted interrupt back into the APIC's request register.
fn give_back(state: &mut VpState, vector: u8) {
    let at = usize::from(vector / 32) * 16 + usize::from(vector % 32 / 8);
    let bit = 1 << (vector % 8);
    state.apic.registers[IRR + at] |= bit;
    state.apic.registers[0x100 + at] &= !bit;
}

pub fn load(vcpu: &VcpuFd, index: u32, state: &VpState) -> Result<(), EngineError> {
    let mp_state = match state.activity {
        Activity::Running => KVM_MP_STATE_RUNNABLE,
        Activity::Halted => KVM_MP_STATE_HALTED,
        Activity::WaitForSipi => KVM_MP_STATE_UNINITIALIZED,
        Activity::Shutdown => {
            let reason = "it has shut down after a triple fault, and KVM keeps no such state; reset the VM".into();
            return Err(EngineError::BadState { index, reason });
        }
    };
    vcpu.set_mp_state(kvm_mp_state { mp_state }).map_err(host_error("KVM_SET_MP_STATE"))?;
    let mut events = vcpu.get_vcpu_events().map_err(host_error("KVM_GET_VCPU_EVENTS"))?;
    events.flags = KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_NMI_PENDING;
    events.interrupt = Default::default();
    events.interrupt.shadow = match state.shadow {
        InterruptShadow::None => 0,
        InterruptShadow::Sti => KVM_X86_SHADOW_INT_STI,
        InterruptShadow::MovSs => KVM_X86_SHADOW_INT_MOV_SS,
    } as u8;
    events.nmi = Default::default();
    events.nmi.masked = u8::from(state.nmi_blocked);
    events.nmi.pending = u8::from(state.nmi_pending);
    events.exception = Default::default();
    if let Some(exception) = state.pending_exception {
        events.exception.injected = 1;
        events.exception.nr = exception.vector;
        events.exception.has_error_code = u8::from(exception.error_code.is_some());
        events.exception.error_code = exception.error_code.unwrap_or(0);
    }
    vcpu.set_vcpu_events(&events).map_err(host_error("KVM_SET_VCPU_EVENTS"))
}

pub fn save_apic(vcpu: &VcpuFd, config: &PartitionConfig, state: &mut VpState) -> Result<(), EngineError> {
    let apic = vcpu.get_lapic().map_err(host_error("KVM_GET_LAPIC"))?;
    for (byte, &register) in state.apic.registers.iter_mut().zip(&apic.regs) {
        *byte = register as u8;
    }
    let elapsed = u64::from(register(state, INITIAL_COUNT).saturating_sub(register(state, CURRENT_COUNT)));
    state.apic.timer_started = config.reactor.now().as_nanos().saturating_sub(elapsed * nanos_per_count(state));
    // Recomputed from the start of the period when it is loaded.
    set_register(state, CURRENT_COUNT, 0);
    Ok(())
}

pub fn load_apic(vcpu: &VcpuFd, config: &PartitionConfig, state: &VpState) -> Result<(), EngineError> {
    let mut with_count = state.clone();
    let initial = u64::from(register(state, INITIAL_COUNT));
    if initial != 0 {
        let elapsed = config.reactor.now().as_nanos().saturating_sub(state.apic.timer_started) / nanos_per_count(state);
        let is_periodic = register(state, LVT_TIMER) >> 17 & 3 == 1;
        let left = if is_periodic { initial - elapsed % initial } else { initial.saturating_sub(elapsed) };
        set_register(&mut with_count, CURRENT_COUNT, u32::try_from(left).unwrap_or(u32::MAX));
    }
    let mut apic = kvm_lapic_state::default();
    for (register, &byte) in apic.regs.iter_mut().zip(with_count.apic.registers.iter()) {
        *register = byte as _;
    }
    vcpu.set_lapic(&apic).map_err(host_error("KVM_SET_LAPIC"))?;
    if register(state, LVT_TIMER) >> 17 & 3 == MODE_TSC_DEADLINE {
        // Only after the APIC: KVM drops the deadline while the timer is in another mode.
        msrs::write(vcpu, 0, msr::TSC_DEADLINE, state.apic.tsc_deadline)?;
    }
    Ok(())
}

fn register(state: &VpState, at: usize) -> u32 {
    u32::from_le_bytes(state.apic.registers[at..at + 4].try_into().unwrap_or_default())
}

fn set_register(state: &mut VpState, at: usize, value: u32) {
    state.apic.registers[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// The timer's divider (SDM figure 11-10) as nanoseconds per count.
fn nanos_per_count(state: &VpState) -> u64 {
    let code = register(state, DIVIDE);
    let shift = ((code & 3 | code >> 1 & 4) + 1) & 7;
    (1_000_000_000 / APIC_TIMER_HZ) << shift
}
