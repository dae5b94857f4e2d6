//! `VpState` to and from the kernel's structures.

use bulkhead_engine::{DescriptorTable, EngineError, PartitionConfig, Segment, VpState, seg};
use kvm_bindings::{kvm_debugregs, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

use crate::{events, fpu, host_error, msrs};

/// Reads everything out of a VP that is between two instructions.
pub fn save(vcpu: &VcpuFd, known_msrs: &[u32], config: &PartitionConfig) -> Result<VpState, EngineError> {
    let mut state = VpState::power_on(0, 0);
    let regs = vcpu.get_regs().map_err(host_error("KVM_GET_REGS"))?;
    state.gpr = gpr_from(&regs);
    state.rip = regs.rip;
    state.rflags = regs.rflags;
    let sregs = vcpu.get_sregs().map_err(host_error("KVM_GET_SREGS"))?;
    for (number, segment) in segments_of(&sregs) {
        state.segments[number] = segment;
    }
    state.ldtr = segment_from(&sregs.ldt);
    state.tr = segment_from(&sregs.tr);
    state.gdtr = DescriptorTable { base: sregs.gdt.base, limit: sregs.gdt.limit };
    state.idtr = DescriptorTable { base: sregs.idt.base, limit: sregs.idt.limit };
    (state.cr0, state.cr2, state.cr3, state.cr4) = (sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4);
    state.efer = sregs.efer;
    state.apic_base = sregs.apic_base;
    let debug = vcpu.get_debug_regs().map_err(host_error("KVM_GET_DEBUGREGS"))?;
    state.dr = [debug.db[0], debug.db[1], debug.db[2], debug.db[3], debug.dr6, debug.dr7];
    fpu::save(vcpu, &mut state)?;
    msrs::save(vcpu, known_msrs, config, &mut state)?;
    events::save_apic(vcpu, config, &mut state)?;
    events::save(vcpu, &mut state)?;
    Ok(state)
}

/// Loads everything into a VP.
pub fn load(
    vcpu: &VcpuFd,
    index: u32,
    state: &VpState,
    known_msrs: &[u32],
    config: &PartitionConfig,
) -> Result<(), EngineError> {
    let mut sregs = vcpu.get_sregs().map_err(host_error("KVM_GET_SREGS"))?;
    let [es, cs, ss, ds, fs, gs] = state.segments.map(segment_to);
    (sregs.es, sregs.cs, sregs.ss, sregs.ds, sregs.fs, sregs.gs) = (es, cs, ss, ds, fs, gs);
    sregs.ldt = segment_to(state.ldtr);
    sregs.tr = segment_to(state.tr);
    sregs.gdt = table_to(state.gdtr);
    sregs.idt = table_to(state.idtr);
    (sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
    sregs.cr8 = u64::from(state.apic.registers[0x80] >> 4);
    sregs.efer = state.efer;
    sregs.apic_base = state.apic_base;
    sregs.interrupt_bitmap = [0; 4];
    vcpu.set_sregs(&sregs).map_err(host_error(format!("KVM_SET_SREGS of virtual processor {index}")))?;
    vcpu.set_regs(&gpr_to(state)).map_err(host_error("KVM_SET_REGS"))?;
    fpu::load(vcpu, state)?;
    msrs::load(vcpu, index, known_msrs, config, state)?;
    events::load_apic(vcpu, config, state)?;
    let [db0, db1, db2, db3, dr6, dr7] = state.dr;
    let debug = kvm_debugregs { db: [db0, db1, db2, db3], dr6, dr7, ..Default::default() };
    vcpu.set_debug_regs(&debug).map_err(host_error("KVM_SET_DEBUGREGS"))?;
    events::load(vcpu, index, state)
}

fn segments_of(sregs: &kvm_sregs) -> [(usize, Segment); 6] {
    [
        (seg::ES, &sregs.es),
        (seg::CS, &sregs.cs),
        (seg::SS, &sregs.ss),
        (seg::DS, &sregs.ds),
        (seg::FS, &sregs.fs),
        (seg::GS, &sregs.gs),
    ]
    .map(|(number, segment)| (number, segment_from(segment)))
}

fn segment_from(segment: &kvm_segment) -> Segment {
    let bits = [
        (segment.type_, 0),
        (segment.s, 4),
        (segment.dpl, 5),
        (segment.present, 7),
        (segment.avl, 12),
        (segment.l, 13),
        (segment.db, 14),
        (segment.g, 15),
    ];
    let mut attributes = bits.into_iter().fold(0, |word, (value, at)| word | u16::from(value) << at);
    if segment.unusable != 0 {
        attributes &= !Segment::PRESENT;
    }
    Segment { base: segment.base, limit: segment.limit, selector: segment.selector, attributes }
}

fn segment_to(segment: Segment) -> kvm_segment {
    let bit = |at: u32| (segment.attributes >> at & 1) as u8;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: (segment.attributes & 15) as u8,
        present: bit(7),
        dpl: segment.dpl(),
        db: bit(14),
        s: bit(4),
        l: bit(13),
        g: bit(15),
        avl: bit(12),
        unusable: 1 - bit(7),
        padding: 0,
    }
}

fn table_to(table: DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, ..Default::default() }
}

fn gpr_from(r: &kvm_regs) -> [u64; 16] {
    [r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15]
}

fn gpr_to(state: &VpState) -> kvm_regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = state.gpr;
    let (rip, rflags) = (state.rip, state.rflags);
    kvm_regs { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}
