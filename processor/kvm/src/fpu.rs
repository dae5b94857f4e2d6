//! x87, SSE and AVX state: the kernel's XSAVE region has the standard format, as ours has.

use bulkhead_engine::{EngineError, VpState};
use kvm_bindings::{kvm_xcr, kvm_xcrs, kvm_xsave};
use kvm_ioctls::VcpuFd;

use crate::host_error;

/// Components that a VP can have: x87, SSE, AVX.
const COMPONENTS: u64 = 7;
/// Offset of XSTATE_BV in the region.
const XSTATE_BV: usize = 512;

pub fn save(vcpu: &VcpuFd, state: &mut VpState) -> Result<(), EngineError> {
    let region = vcpu.get_xsave().map_err(host_error("KVM_GET_XSAVE"))?;
    for (bytes, word) in state.xsave.chunks_exact_mut(4).zip(region.region) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let present = u64::from_le_bytes(state.xsave[XSTATE_BV..XSTATE_BV + 8].try_into().unwrap_or_default());
    state.xsave[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&(present & COMPONENTS).to_le_bytes());
    state.xsave[XSTATE_BV + 8..XSTATE_BV + 64].fill(0);
    let xcrs = vcpu.get_xcrs().map_err(host_error("KVM_GET_XCRS"))?;
    let xcr0 = xcrs.xcrs.iter().take(xcrs.nr_xcrs as usize).find(|xcr| xcr.xcr == 0);
    state.xcr0 = xcr0.map_or(1, |xcr| xcr.value) & COMPONENTS;
    Ok(())
}

pub fn load(vcpu: &VcpuFd, state: &VpState) -> Result<(), EngineError> {
    let mut region = kvm_xsave::default();
    for (word, bytes) in region.region.iter_mut().zip(state.xsave.chunks_exact(4)) {
        *word = u32::from_le_bytes(bytes.try_into().unwrap_or_default());
    }
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0] = kvm_xcr { xcr: 0, value: state.xcr0, ..Default::default() };
    vcpu.set_xcrs(&xcrs).map_err(host_error("KVM_SET_XCRS"))?;
    // SAFETY: the kernel reads exactly the 4096 bytes of the fixed region: no dynamically enabled component is used.
    unsafe { vcpu.set_xsave(&region) }.map_err(host_error("KVM_SET_XSAVE"))
}
