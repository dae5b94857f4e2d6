//! CPU models: named, fixed lists of features, identical on both engines.
//!
//! The signature is that of an AMD family 19h processor, because what Linux does for such a one costs a software
//! processor least: no page-table isolation, no buffer clearing, no return thunks once automatic IBRS is offered.
//! Mitigations inside the guest protect nothing on the software engine, whose branch prediction is the host's.

use crate::cpuid::{CpuidTable, CpuidValue, xsave_size};

/// The levels, as in the x86-64 psABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CpuLevel {
    /// SSE2: what a KVM shows that has nothing more.
    V1,
    /// SSE4.2, POPCNT, CMPXCHG16B, LAHF; plus RDTSCP, FSGSBASE, SMEP and RDRAND.
    V2,
    /// AVX2, BMI1/2, FMA, F16C, LZCNT, MOVBE, XSAVE; plus 1 GiB pages, RDSEED and CLFLUSHOPT.
    V3,
}

impl CpuLevel {
    /// The name on the command line and in `vm.toml`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::V3 => "v3",
        }
    }
}

/// A model: a level and its extras.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuModel {
    /// The fixed list.
    pub level: CpuLevel,
    /// AES, PCLMULQDQ and SHA.
    pub crypto: bool,
}

impl CpuModel {
    /// `v2`, `v2+crypto`, `v3`, `v3+crypto`.
    pub fn name(self) -> String {
        format!("{}{}", self.level.name(), if self.crypto { "+crypto" } else { "" })
    }

    /// The richest model of `level` whose features `supported` has, with `crypto` if all of it is there; or the
    /// features that are missing.
    pub fn best(level: CpuLevel, supported: &CpuidTable) -> Result<Self, Vec<(u32, u32, &'static str, u32)>> {
        let plain = Self { level, crypto: false };
        let missing = plain.missing_in(supported);
        if !missing.is_empty() {
            return Err(missing);
        }
        let crypto = Self { level, crypto: true };
        Ok(if crypto.missing_in(supported).is_empty() { crypto } else { plain })
    }

    /// The model of this name.
    pub fn named(name: &str) -> Option<Self> {
        let levels = [CpuLevel::V1, CpuLevel::V2, CpuLevel::V3];
        let all = levels.into_iter().flat_map(|level| [false, true].map(|crypto| Self { level, crypto }));
        all.into_iter().find(|model| model.name() == name)
    }

    /// Features of the model that `supported` lacks, as (leaf, subleaf, register, bits).
    pub fn missing_in(self, supported: &CpuidTable) -> Vec<(u32, u32, &'static str, u32)> {
        self.cpuid_on(1, supported).features_missing_in(supported)
    }

    /// [`CpuModel::cpuid`] on an engine with these features: what only says that a guest need not defend itself, and takes
    /// hardware to be true, is shown where it is true.
    pub fn cpuid_on(self, vps: u32, supported: &CpuidTable) -> CpuidTable {
        let mut table = self.cpuid(vps);
        let leaf = table.get(0x8000_0021, 0);
        let lacks = NEEDS_NO_DEFENCE & !supported.get(0x8000_0021, 0).eax;
        table.set(0x8000_0021, CpuidValue { eax: leaf.eax & !lacks, ..leaf });
        table
    }

    /// The static leaves for a VM with `vps` processors (one socket, one thread per core).
    pub fn cpuid(self, vps: u32) -> CpuidTable {
        let mut table = CpuidTable::new();
        self.add_basic_leaves(&mut table, vps);
        self.add_extended_leaves(&mut table, vps);
        table
    }

    fn add_basic_leaves(self, table: &mut CpuidTable, vps: u32) {
        let (v2, v3) = (self.level >= CpuLevel::V2, self.level >= CpuLevel::V3);
        let [ebx, edx, ecx] = VENDOR;
        table.set(0, CpuidValue { eax: 0xd, ebx, ecx, edx });
        // EBX: CLFLUSH line of 8 quadwords, logical processors of the package.
        let ebx = 8 << 8 | vps.min(255) << 16;
        let mut ecx = TSC_DEADLINE | HYPERVISOR;
        if v2 {
            ecx |= SSE3 | SSSE3 | CX16 | SSE4_1 | SSE4_2 | POPCNT | RDRAND;
        }
        if v3 {
            ecx |= FMA | MOVBE | XSAVE | AVX | F16C;
        }
        if self.crypto {
            ecx |= PCLMULQDQ | AES;
        }
        let edx = EDX_1 | if vps > 1 { HTT } else { 0 };
        table.set(1, CpuidValue { eax: SIGNATURE, ebx, ecx, edx });
        let mut ebx = ERMS | if v2 { FSGSBASE | SMEP } else { 0 };
        if v3 {
            ebx |= BMI1 | AVX2 | BMI2 | RDSEED | CLFLUSHOPT;
        }
        if self.crypto {
            ebx |= SHA;
        }
        table.set_indexed(7, 0, CpuidValue { eax: 0, ebx, ecx: 0, edx: FSRM });
        let bits = apic_id_bits(vps);
        table.set_indexed(0xb, 0, CpuidValue { eax: 0, ebx: 1, ecx: 1 << 8, edx: 0 });
        table.set_indexed(0xb, 1, CpuidValue { eax: bits, ebx: vps, ecx: 2 << 8, edx: 0 });
        if v3 {
            let size = xsave_size(7);
            table.set_indexed(0xd, 0, CpuidValue { eax: 7, ebx: size, ecx: size, edx: 0 });
            table.set_indexed(0xd, 1, CpuidValue::default());
            table.set_indexed(0xd, 2, CpuidValue { eax: 256, ebx: 576, ecx: 0, edx: 0 });
        }
    }

    fn add_extended_leaves(self, table: &mut CpuidTable, vps: u32) {
        let (v2, v3) = (self.level >= CpuLevel::V2, self.level >= CpuLevel::V3);
        let [ebx, edx, ecx] = VENDOR;
        table.set(0x8000_0000, CpuidValue { eax: 0x8000_0021, ebx, ecx, edx });
        let ecx = LAHF | PREFETCHW | if v3 { LZCNT } else { 0 };
        let edx = EDX_1 & EDX_8000_0001_COPY | SYSCALL | NX | LONG_MODE;
        let edx = edx | if v2 { RDTSCP } else { 0 } | if v3 { PAGES_1G } else { 0 };
        table.set(0x8000_0001, CpuidValue { eax: SIGNATURE, ebx: 0, ecx, edx });
        let brand = format!("{:<47}\0", format!("Bulkhead virtual processor {}", self.name()));
        for (index, part) in brand.as_bytes().chunks_exact(16).enumerate() {
            let word = |i: usize| u32::from_le_bytes([part[i], part[i + 1], part[i + 2], part[i + 3]]);
            let value = CpuidValue { eax: word(0), ebx: word(4), ecx: word(8), edx: word(12) };
            table.set(0x8000_0002 + index as u32, value);
        }
        // L1 and L2/L3 as on the family, so that guests size their copy loops sensibly.
        let l1 = 32 << 24 | 8 << 16 | 1 << 8 | 64;
        table.set(0x8000_0005, CpuidValue { eax: 0, ebx: 0, ecx: l1, edx: l1 });
        let l2 = 1024 << 16 | 6 << 12 | 1 << 8 | 64;
        table.set(0x8000_0006, CpuidValue { eax: 0, ebx: 0, ecx: l2, edx: 0 });
        table.set(0x8000_0007, CpuidValue { edx: INVARIANT_TSC, ..CpuidValue::default() });
        let address_bits = LINEAR_BITS << 8 | PHYSICAL_BITS;
        let cores = apic_id_bits(vps) << 12 | (vps - 1).min(255);
        table.set(0x8000_0008, CpuidValue { eax: address_bits, ebx: 0, ecx: cores, edx: 0 });
        let eax = LFENCE_SERIALIZES | NULL_SELECTOR_CLEARS_BASE | AUTOMATIC_IBRS | SRSO_NO;
        table.set(0x8000_0021, CpuidValue { eax, ..CpuidValue::default() });
    }
}

/// Width of guest-physical addresses, on both engines and every host.
pub const PHYSICAL_BITS: u32 = 40;
/// Width of linear addresses (4-level paging).
pub const LINEAR_BITS: u32 = 48;

const fn apic_id_bits(vps: u32) -> u32 {
    vps.next_power_of_two().trailing_zeros()
}

/// "AuthenticAMD" in EBX, EDX, ECX.
const VENDOR: [u32; 3] = [0x6874_7541, 0x6974_6e65, 0x444d_4163];
/// Family 19h, model 11h, stepping 1.
const SIGNATURE: u32 = 0x00a1_0f11;

// Leaf 1 ECX.
const SSE3: u32 = 1;
const PCLMULQDQ: u32 = 1 << 1;
const SSSE3: u32 = 1 << 9;
const FMA: u32 = 1 << 12;
const CX16: u32 = 1 << 13;
const SSE4_1: u32 = 1 << 19;
const SSE4_2: u32 = 1 << 20;
const MOVBE: u32 = 1 << 22;
const POPCNT: u32 = 1 << 23;
const TSC_DEADLINE: u32 = 1 << 24;
const AES: u32 = 1 << 25;
const XSAVE: u32 = 1 << 26;
const AVX: u32 = 1 << 28;
const F16C: u32 = 1 << 29;
const RDRAND: u32 = 1 << 30;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: FPU, DE, PSE, TSC, MSR, PAE, CX8, APIC, SEP, MTRR, PGE, CMOV, PAT, PSE36, CLFSH, MMX, FXSR, SSE, SSE2.
/// No VME, and no machine checks: nothing here can produce one.
const EDX_1: u32 = 0x078b_bb7d;
const HTT: u32 = 1 << 28;
// Leaf 7 EBX and EDX.
const FSGSBASE: u32 = 1;
const BMI1: u32 = 1 << 3;
const AVX2: u32 = 1 << 5;
const SMEP: u32 = 1 << 7;
const BMI2: u32 = 1 << 8;
const ERMS: u32 = 1 << 9;
const RDSEED: u32 = 1 << 18;
const CLFLUSHOPT: u32 = 1 << 23;
const SHA: u32 = 1 << 29;
const FSRM: u32 = 1 << 4;
// Leaf 8000_0001 ECX and EDX.
const LAHF: u32 = 1;
const LZCNT: u32 = 1 << 5;
const PREFETCHW: u32 = 1 << 8;
/// Bits of leaf 1 EDX that AMD repeats in leaf 8000_0001 EDX.
const EDX_8000_0001_COPY: u32 = 0x0183_f3ff;
const SYSCALL: u32 = 1 << 11;
const NX: u32 = 1 << 20;
const PAGES_1G: u32 = 1 << 26;
const RDTSCP: u32 = 1 << 27;
const LONG_MODE: u32 = 1 << 29;
// Leaves 8000_0007 and 8000_0021.
const INVARIANT_TSC: u32 = 1 << 8;
const LFENCE_SERIALIZES: u32 = 1 << 2;
const NULL_SELECTOR_CLEARS_BASE: u32 = 1 << 6;
const AUTOMATIC_IBRS: u32 = 1 << 8;
const SRSO_NO: u32 = 1 << 29;
const NEEDS_NO_DEFENCE: u32 = AUTOMATIC_IBRS | SRSO_NO;
