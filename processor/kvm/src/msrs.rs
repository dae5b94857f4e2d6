//! Model-specific registers, and the TSC as an offset to the reactor's time.

use bulkhead_engine::{EngineError, PartitionConfig, VpState, msr};
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use crate::host_error;

pub fn save(vcpu: &VcpuFd, known: &[u32], config: &PartitionConfig, state: &mut VpState) -> Result<(), EngineError> {
    for &number in known {
        state.set_msr(number, read(vcpu, number)?);
    }
    state.apic.tsc_deadline = read(vcpu, msr::TSC_DEADLINE)?;
    state.tsc_offset = read(vcpu, msr::TSC)?.wrapping_sub(tsc_of_now(config));
    Ok(())
}

pub fn load(
    vcpu: &VcpuFd,
    index: u32,
    known: &[u32],
    config: &PartitionConfig,
    state: &VpState,
) -> Result<(), EngineError> {
    let fresh = VpState::power_on(index, 0);
    for &(number, value) in &state.msrs {
        if known.contains(&number) {
            write(vcpu, index, number, value)?;
        } else if fresh.msr(number) != Some(value) {
            let reason = format!("MSR {number:#x} holds {value:#x}, and this host's KVM does not know it");
            return Err(EngineError::BadState { index, reason });
        }
    }
    write(vcpu, index, msr::TSC, tsc_of_now(config).wrapping_add(state.tsc_offset))
}

/// What the guest's TSC would be now without the guest's own adjustments.
fn tsc_of_now(config: &PartitionConfig) -> u64 {
    let product = u128::from(config.reactor.now().as_nanos()) * u128::from(config.tsc_hz);
    (product / 1_000_000_000) as u64
}

/// One register at a time: an unknown one must not hide the rest.
pub fn read(vcpu: &VcpuFd, number: u32) -> Result<u64, EngineError> {
    let operation = || format!("KVM_GET_MSRS {number:#x}");
    let mut list = one(number, 0);
    let count = vcpu.get_msrs(&mut list).map_err(host_error(operation()))?;
    match list.as_slice().first().filter(|_| count == 1) {
        Some(entry) => Ok(entry.data),
        None => Err(EngineError::Host { operation: operation(), source: std::io::ErrorKind::Unsupported.into() }),
    }
}

pub fn write(vcpu: &VcpuFd, index: u32, number: u32, value: u64) -> Result<(), EngineError> {
    let count = vcpu.set_msrs(&one(number, value)).map_err(host_error(format!("KVM_SET_MSRS {number:#x}")))?;
    if count == 1 {
        return Ok(());
    }
    Err(EngineError::BadState { index, reason: format!("MSR {number:#x} does not take {value:#x} on this host") })
}

fn one(index: u32, data: u64) -> Msrs {
    Msrs::from_entries(&[kvm_msr_entry { index, data, ..Default::default() }]).expect("one entry always fits")
}
