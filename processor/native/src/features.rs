//! Processor features: which CPUID bit each one is, and which the host has.

use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use iced_x86::{Code, CpuidFeature};

/// A set of processor features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    present: [u64; 4],
}

/// Where a feature's CPUID bit is.
struct Bit {
    feature: CpuidFeature,
    leaf: u32,
    subleaf: u32,
    /// 0–3: EAX, EBX, ECX, EDX.
    word: usize,
    bit: u32,
}

const fn bit(feature: CpuidFeature, leaf: u32, subleaf: u32, word: usize, bit: u32) -> Bit {
    Bit { feature, leaf, subleaf, word, bit }
}

const B: usize = 1;
const C: usize = 2;
const D: usize = 3;

/// Every feature that has a CPUID bit and instructions an engine may execute (SDM vol. 2, CPUID; APM vol. 3, E).
const BITS: &[Bit] = &[
    bit(CpuidFeature::FPU, 1, 0, D, 0),
    bit(CpuidFeature::TSC, 1, 0, D, 4),
    bit(CpuidFeature::MSR, 1, 0, D, 5),
    bit(CpuidFeature::CX8, 1, 0, D, 8),
    bit(CpuidFeature::SEP, 1, 0, D, 11),
    bit(CpuidFeature::CMOV, 1, 0, D, 15),
    bit(CpuidFeature::CLFSH, 1, 0, D, 19),
    bit(CpuidFeature::MMX, 1, 0, D, 23),
    bit(CpuidFeature::FXSR, 1, 0, D, 24),
    bit(CpuidFeature::SSE, 1, 0, D, 25),
    bit(CpuidFeature::SSE2, 1, 0, D, 26),
    bit(CpuidFeature::SSE3, 1, 0, C, 0),
    bit(CpuidFeature::PCLMULQDQ, 1, 0, C, 1),
    bit(CpuidFeature::MONITOR, 1, 0, C, 3),
    bit(CpuidFeature::SSSE3, 1, 0, C, 9),
    bit(CpuidFeature::FMA, 1, 0, C, 12),
    bit(CpuidFeature::CMPXCHG16B, 1, 0, C, 13),
    bit(CpuidFeature::SSE4_1, 1, 0, C, 19),
    bit(CpuidFeature::SSE4_2, 1, 0, C, 20),
    bit(CpuidFeature::MOVBE, 1, 0, C, 22),
    bit(CpuidFeature::POPCNT, 1, 0, C, 23),
    bit(CpuidFeature::AES, 1, 0, C, 25),
    bit(CpuidFeature::XSAVE, 1, 0, C, 26),
    bit(CpuidFeature::AVX, 1, 0, C, 28),
    bit(CpuidFeature::F16C, 1, 0, C, 29),
    bit(CpuidFeature::RDRAND, 1, 0, C, 30),
    bit(CpuidFeature::FSGSBASE, 7, 0, B, 0),
    bit(CpuidFeature::BMI1, 7, 0, B, 3),
    bit(CpuidFeature::AVX2, 7, 0, B, 5),
    bit(CpuidFeature::BMI2, 7, 0, B, 8),
    bit(CpuidFeature::INVPCID, 7, 0, B, 10),
    bit(CpuidFeature::RDSEED, 7, 0, B, 18),
    bit(CpuidFeature::ADX, 7, 0, B, 19),
    bit(CpuidFeature::SMAP, 7, 0, B, 20),
    bit(CpuidFeature::CLFLUSHOPT, 7, 0, B, 23),
    bit(CpuidFeature::CLWB, 7, 0, B, 24),
    bit(CpuidFeature::SHA, 7, 0, B, 29),
    bit(CpuidFeature::PKU, 7, 0, C, 3),
    bit(CpuidFeature::GFNI, 7, 0, C, 8),
    bit(CpuidFeature::VAES, 7, 0, C, 9),
    bit(CpuidFeature::VPCLMULQDQ, 7, 0, C, 10),
    bit(CpuidFeature::RDPID, 7, 0, C, 22),
    bit(CpuidFeature::MOVDIRI, 7, 0, C, 27),
    bit(CpuidFeature::MOVDIR64B, 7, 0, C, 28),
    bit(CpuidFeature::SERIALIZE, 7, 0, D, 14),
    bit(CpuidFeature::XSAVEOPT, 0xd, 1, 0, 0),
    bit(CpuidFeature::XSAVEC, 0xd, 1, 0, 1),
    bit(CpuidFeature::XSAVES, 0xd, 1, 0, 3),
    bit(CpuidFeature::LZCNT, 0x8000_0001, 0, C, 5),
    bit(CpuidFeature::SSE4A, 0x8000_0001, 0, C, 6),
    bit(CpuidFeature::PREFETCHW, 0x8000_0001, 0, C, 8),
    bit(CpuidFeature::RDTSCP, 0x8000_0001, 0, D, 27),
];

/// Features that every x86-64 processor has, or that an engine must honour without being asked.
const ALWAYS: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::CPUID,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::RDPMC,
    CpuidFeature::SYSCALL,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::SMM,
];

/// Those that need the operating system to switch YMM state.
const NEED_YMM: &[CpuidFeature] = &[
    CpuidFeature::AVX,
    CpuidFeature::AVX2,
    CpuidFeature::FMA,
    CpuidFeature::F16C,
    CpuidFeature::VAES,
    CpuidFeature::VPCLMULQDQ,
];

impl Features {
    const fn empty() -> Self {
        Self { present: [0; 4] }
    }

    /// The features in CPUID leaves: `cpuid(leaf, subleaf)` gives EAX, EBX, ECX, EDX. Works for the host's leaves as
    /// for those a guest is shown.
    pub fn from_cpuid(cpuid: impl Fn(u32, u32) -> [u32; 4]) -> Self {
        let mut features = Self::empty();
        for &feature in ALWAYS {
            features.set(feature, true);
        }
        for entry in BITS {
            features.set(entry.feature, cpuid(entry.leaf, entry.subleaf)[entry.word] >> entry.bit & 1 != 0);
        }
        features
    }

    /// What the host processor and its operating system let a process use.
    pub fn host() -> &'static Self {
        static HOST: OnceLock<Features> = OnceLock::new();
        HOST.get_or_init(|| {
            let highest = [__cpuid_count(0, 0).eax, __cpuid_count(0x8000_0000, 0).eax];
            let mut features = Self::from_cpuid(|leaf, subleaf| {
                if leaf > highest[(leaf >> 31) as usize] {
                    return [0; 4];
                }
                let value = __cpuid_count(leaf, subleaf);
                [value.eax, value.ebx, value.ecx, value.edx]
            });
            if !std::arch::is_x86_feature_detected!("avx") {
                for &feature in NEED_YMM {
                    features.set(feature, false);
                }
            }
            features
        })
    }

    /// Whether the feature is in the set.
    pub fn has(&self, feature: CpuidFeature) -> bool {
        let index = feature as usize;
        self.present[index / 64] >> (index % 64) & 1 != 0
    }

    /// Whether all features are there that `code` needs.
    pub fn allows(&self, code: Code) -> bool {
        code.cpuid_features().iter().all(|&feature| self.has(feature))
    }

    fn set(&mut self, feature: CpuidFeature, on: bool) {
        let index = feature as usize;
        let mask = 1 << (index % 64);
        let word = &mut self.present[index / 64];
        *word = if on { *word | mask } else { *word & !mask };
    }
}
