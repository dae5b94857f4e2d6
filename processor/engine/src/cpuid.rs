//! CPUID as data: a table of leaves, and the few bits that change while a VP runs.

use std::collections::{BTreeMap, BTreeSet};

/// EAX, EBX, ECX, EDX of one leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuidValue {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// The part of a VP's state that shows in CPUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuidContext {
    /// Initial APIC id.
    pub apic_id: u32,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// IA32_APIC_BASE.EN.
    pub apic_enabled: bool,
    /// XCR0.
    pub xcr0: u64,
}

/// Static leaves by (leaf, subleaf). A leaf whose subleaves do not matter is stored under subleaf 0 only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuidTable {
    leaves: BTreeMap<(u32, u32), CpuidValue>,
    indexed: BTreeSet<u32>,
    dynamic: BTreeSet<u32>,
}

const FEATURES: u32 = 1;
const TOPOLOGY: u32 = 0xb;
const XSAVE: u32 = 0xd;

impl CpuidTable {
    /// An empty table: every leaf reads as zeros.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a leaf that ignores ECX.
    pub fn set(&mut self, leaf: u32, value: CpuidValue) {
        self.leaves.insert((leaf, 0), value);
    }

    /// Sets one subleaf of a leaf that looks at ECX.
    pub fn set_indexed(&mut self, leaf: u32, subleaf: u32, value: CpuidValue) {
        self.indexed.insert(leaf);
        self.leaves.insert((leaf, subleaf), value);
    }

    /// Has [`crate::VpExits::cpuid`] asked each time the guest reads this leaf.
    pub fn mark_dynamic(&mut self, leaf: u32) {
        self.dynamic.insert(leaf);
    }

    /// Whether the leaf was marked with [`Self::mark_dynamic`].
    pub fn is_dynamic(&self, leaf: u32) -> bool {
        self.dynamic.contains(&leaf)
    }

    /// Whether the leaf looks at ECX.
    pub fn is_indexed(&self, leaf: u32) -> bool {
        self.indexed.contains(&leaf)
    }

    /// The stored value, without the VP's own bits.
    pub fn get(&self, leaf: u32, subleaf: u32) -> CpuidValue {
        let subleaf = if self.indexed.contains(&leaf) { subleaf } else { 0 };
        self.leaves.get(&(leaf, subleaf)).copied().unwrap_or_default()
    }

    /// Every stored (leaf, subleaf, value), in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32, CpuidValue)> + '_ {
        self.leaves.iter().map(|(&(leaf, subleaf), &value)| (leaf, subleaf, value))
    }

    /// What the CPUID instruction returns on a VP.
    ///
    /// A basic leaf above the highest one returns zeros, as AMD processors do.
    pub fn query(&self, leaf: u32, subleaf: u32, vp: CpuidContext) -> CpuidValue {
        let mut value = self.get(leaf, subleaf);
        match leaf {
            FEATURES => {
                value.ebx = value.ebx & 0x00ff_ffff | vp.apic_id << 24;
                value.ecx = value.ecx & !(1 << 27) | u32::from(vp.osxsave) << 27;
                if !vp.apic_enabled {
                    value.edx &= !(1 << 9);
                }
            }
            TOPOLOGY if self.leaves.contains_key(&(TOPOLOGY, 0)) => {
                value.edx = vp.apic_id;
                value.ecx = value.ecx & !0xff | subleaf & 0xff;
            }
            XSAVE if subleaf == 0 && value.eax != 0 => value.ebx = xsave_size(vp.xcr0),
            _ => {}
        }
        value
    }

    /// The leaves with `mask`'s feature bits taken away where `mask` lacks them. Only words that are sets of
    /// features are masked; sizes, names and topology stay.
    pub fn intersect_features(&self, mask: &Self) -> Self {
        let mut result = self.clone();
        for (&(leaf, subleaf), value) in &mut result.leaves {
            let other = mask.get(leaf, subleaf);
            let [eax, ebx, ecx, edx] = feature_words(leaf, subleaf);
            for (is_set, word, bits) in [
                (eax, &mut value.eax, other.eax),
                (ebx, &mut value.ebx, other.ebx),
                (ecx, &mut value.ecx, other.ecx),
                (edx, &mut value.edx, other.edx),
            ] {
                if is_set {
                    *word &= bits;
                }
            }
        }
        result
    }

    /// Feature bits of `self` that `other` lacks, as (leaf, subleaf, register, bits); empty if `self` can run there.
    pub fn features_missing_in(&self, other: &Self) -> Vec<(u32, u32, &'static str, u32)> {
        let mut missing = Vec::new();
        for (leaf, subleaf, value) in self.iter() {
            let there = other.get(leaf, subleaf);
            let sets = feature_words(leaf, subleaf);
            let words = [
                ("eax", value.eax & !there.eax),
                ("ebx", value.ebx & !there.ebx),
                ("ecx", value.ecx & !there.ecx),
                ("edx", value.edx & !there.edx),
            ];
            for (is_set, (name, bits)) in sets.into_iter().zip(words) {
                if is_set && bits != 0 {
                    missing.push((leaf, subleaf, name, bits));
                }
            }
        }
        missing
    }
}

/// Which of EAX, EBX, ECX, EDX of a leaf are sets of feature bits.
const fn feature_words(leaf: u32, subleaf: u32) -> [bool; 4] {
    match (leaf, subleaf) {
        (FEATURES, _) => [false, false, true, true],
        (7, 0) => [false, true, true, true],
        (7, 1) => [true, true, true, true],
        (XSAVE, 0) => [true, false, false, true],
        (XSAVE, 1) => [true, false, false, false],
        (0x8000_0001, _) => [false, false, true, true],
        (0x8000_0007, _) => [false, false, false, true],
        (0x8000_0008, _) => [false, true, false, false],
        (0x8000_0021, _) => [true, false, false, false],
        _ => [false; 4],
    }
}

/// Bytes of a standard-format XSAVE area for the enabled components (x87, SSE, AVX only; SDM vol. 1, 13.4).
pub const fn xsave_size(xcr0: u64) -> u32 {
    if xcr0 & 4 != 0 { 576 + 256 } else { 576 }
}
