//! CPUID tables to and from KVM's form.

use bulkhead_engine::{CpuidContext, CpuidTable, CpuidValue, EngineError};
use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Features of leaf 1 ECX and 7 that KVM provides itself or that depend on what we ask of it, so that
/// `KVM_GET_SUPPORTED_CPUID` may leave them out: TSC deadline, x2APIC, hypervisor present.
const LEAF_1_ECX_OURS: u32 = 1 << 24 | 1 << 31;

/// Bits of leaf 1 EDX that AMD repeats in leaf 8000_0001 EDX.
const AMD_REPEATS: u32 = 0x0183_f3ff;

/// What the host offers. Features that KVM always emulates are added.
pub fn from_kvm(leaves: &CpuId) -> CpuidTable {
    let mut table = CpuidTable::new();
    for entry in leaves.as_slice() {
        let value = CpuidValue { eax: entry.eax, ebx: entry.ebx, ecx: entry.ecx, edx: entry.edx };
        if entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0 {
            table.set_indexed(entry.function, entry.index, value);
        } else {
            table.set(entry.function, value);
        }
    }
    let features = table.get(1, 0);
    // One thread per package bit: it says nothing about the host.
    let edx = features.edx | 1 << 28;
    table.set(1, CpuidValue { ecx: features.ecx | LEAF_1_ECX_OURS, edx, ..features });
    let power = table.get(0x8000_0007, 0);
    table.set(0x8000_0007, CpuidValue { edx: power.edx | 1 << 8, ..power });
    // AMD repeats features of leaf 1 here. Intel does not, and guests of our models look for them.
    let repeated = table.get(1, 0).edx & AMD_REPEATS;
    let extended = table.get(0x8000_0001, 0);
    table.set(0x8000_0001, CpuidValue { edx: extended.edx | repeated, ..extended });
    // Always-true statements about software and hints for string instructions: any host can be told to show them.
    let features = table.get(7, 0);
    table.set_indexed(7, 0, CpuidValue { ebx: features.ebx | 1 << 9, edx: features.edx | 1 << 4, ..features });
    table
}

/// The leaves of one VP, for `KVM_SET_CPUID2`. KVM itself keeps OSXSAVE and the XSAVE size up to date.
pub fn to_kvm(table: &CpuidTable, apic_id: u32) -> Result<CpuId, EngineError> {
    let context = CpuidContext { apic_id, osxsave: false, apic_enabled: true, xcr0: 1 };
    let entries: Vec<kvm_cpuid_entry2> = table
        .iter()
        .map(|(leaf, subleaf, _)| {
            let value = table.query(leaf, subleaf, context);
            kvm_cpuid_entry2 {
                function: leaf,
                index: subleaf,
                flags: if table.is_indexed(leaf) { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
                eax: value.eax,
                ebx: value.ebx,
                ecx: value.ecx,
                edx: value.edx,
                ..Default::default()
            }
        })
        .collect();
    CpuId::from_entries(&entries).map_err(|error| EngineError::Unsupported {
        engine: "kvm",
        what: format!("a CPUID table of {} leaves ({error:?})", entries.len()),
    })
}
