//! What the guest's CPUID allows: instructions, control register bits, MSRs.

use bulkhead_engine::{CpuidTable, CpuidValue};
use iced_x86::{CpuidFeature, Instruction, Mnemonic};

/// Answers taken from a partition's CPUID table once.
#[derive(Debug, Clone)]
pub(crate) struct Features {
    instructions: bulkhead_native::Features,
    /// For iced.
    pub decoder_options: u32,
    /// 1 GiB pages.
    pub pages_1g: bool,
    /// x2APIC mode of the local APIC.
    pub x2apic: bool,
    /// Bits that CR4 may have.
    pub cr4: u64,
    /// Bits that EFER may have.
    pub efer: u64,
    /// Bits that XCR0 may have.
    pub xcr0: u64,
    /// IA32_TSC_DEADLINE exists.
    pub tsc_deadline: bool,
}

impl Features {
    /// From a CPUID table.
    pub fn new(table: &CpuidTable) -> Self {
        let words = |leaf, subleaf| {
            let CpuidValue { eax, ebx, ecx, edx } = table.get(leaf, subleaf);
            [eax, ebx, ecx, edx]
        };
        let instructions = bulkhead_native::Features::from_cpuid(words);
        let bit = |leaf, word: usize, bit: u32| words(leaf, 0)[word] >> bit & 1 != 0;
        let (b, c, d) = (1, 2, 3);
        let lzcnt = instructions.has(CpuidFeature::LZCNT);
        let tzcnt = instructions.has(CpuidFeature::BMI1);
        let set = |bits: &[(bool, u32)]| bits.iter().map(|&(on, bit)| u64::from(on) << bit).sum::<u64>();
        // TSD, MCE and PCE do no harm without the feature.
        let cr4 = set(&[
            (true, 2),
            (bit(1, d, 2), 3),
            (bit(1, d, 3), 4),
            (bit(1, d, 6), 5),
            (true, 6),
            (bit(1, d, 13), 7),
            (true, 8),
            (bit(1, d, 24), 9),
            (bit(1, d, 25), 10),
            (bit(7, b, 0), 16),
            (bit(1, c, 26), 18),
            (bit(7, b, 7), 20),
        ]);
        let efer = set(&[
            (bit(0x8000_0001, d, 11), 0),
            (bit(0x8000_0001, d, 29), 8),
            (bit(0x8000_0001, d, 29), 10),
            (bit(0x8000_0001, d, 20), 11),
            (bit(0x8000_0021, 0, 8), 21),
        ]);
        Self {
            decoder_options: crate::decode::decoder_options(lzcnt, tzcnt),
            pages_1g: bit(0x8000_0001, d, 26),
            x2apic: bit(1, c, 21),
            cr4,
            efer,
            xcr0: u64::from(words(0xd, 0)[0]) & 7,
            tsc_deadline: bit(1, c, 24),
            instructions,
        }
    }

    /// Whether the guest's processor has the instruction. Encodings that older processors execute as no-operations or
    /// as another instruction are allowed without their feature.
    pub fn allows(&self, instruction: &Instruction) -> bool {
        is_hint(instruction.mnemonic()) || self.instructions.allows(instruction.code())
    }
}

/// Encodings in the no-operation space (0F 0D, 0F 18–1F), and WBNOINVD, which is WBINVD where it is not known.
pub(crate) fn is_hint(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Endbr32
            | Mnemonic::Endbr64
            | Mnemonic::Rdsspd
            | Mnemonic::Rdsspq
            | Mnemonic::Cldemote
            | Mnemonic::Prefetch
            | Mnemonic::Prefetchw
            | Mnemonic::Prefetchwt1
            | Mnemonic::Prefetchit0
            | Mnemonic::Prefetchit1
            | Mnemonic::Bndcl
            | Mnemonic::Bndcn
            | Mnemonic::Bndcu
            | Mnemonic::Bndldx
            | Mnemonic::Bndmk
            | Mnemonic::Bndmov
            | Mnemonic::Bndstx
            | Mnemonic::Wbnoinvd
    )
}
