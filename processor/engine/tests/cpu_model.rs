//! CPU models: the lists are what the psABI says, and masking by a host leaves only what the host has.

use bulkhead_engine::cpu_model::{CpuLevel, CpuModel};
use bulkhead_engine::{CpuidContext, CpuidValue};

const VP: CpuidContext = CpuidContext { apic_id: 3, osxsave: false, apic_enabled: true, xcr0: 1 };

/// (leaf, subleaf, register, bit) of the x86-64 psABI's micro-architecture levels.
const PSABI_V2: &[(u32, char, u32)] =
    &[(1, 'c', 0), (1, 'c', 9), (1, 'c', 13), (1, 'c', 19), (1, 'c', 20), (1, 'c', 23), (0x8000_0001, 'c', 0)];
const PSABI_V3: &[(u32, char, u32)] = &[
    (1, 'c', 12),
    (1, 'c', 22),
    (1, 'c', 28),
    (1, 'c', 29),
    (7, 'b', 3),
    (7, 'b', 5),
    (7, 'b', 8),
    (0x8000_0001, 'c', 5),
];

fn has(model: CpuModel, (leaf, register, bit): (u32, char, u32)) -> bool {
    let value = model.cpuid(1).query(leaf, 0, VP);
    let word = match register {
        'b' => value.ebx,
        'c' => value.ecx,
        _ => value.edx,
    };
    word >> bit & 1 == 1
}

#[test]
fn levels_hold_what_the_psabi_asks_for() {
    let v2 = CpuModel { level: CpuLevel::V2, crypto: false };
    let v3 = CpuModel { level: CpuLevel::V3, crypto: false };
    assert!(PSABI_V2.iter().all(|&bit| has(v2, bit) && has(v3, bit)));
    assert!(PSABI_V3.iter().all(|&bit| has(v3, bit) && !has(v2, bit)));
}

#[test]
fn v1_has_nothing_that_v2_adds() {
    let v1 = CpuModel { level: CpuLevel::V1, crypto: false };
    assert!(PSABI_V2[..6].iter().all(|&bit| !has(v1, bit)));
    // SSE2 and long mode.
    assert!(has(v1, (1, 'd', 26)) && has(v1, (0x8000_0001, 'd', 29)));
    assert!(v1.missing_in(&CpuModel { level: CpuLevel::V2, crypto: false }.cpuid(1)).is_empty());
}

#[test]
fn models_are_found_by_name() {
    for level in [CpuLevel::V1, CpuLevel::V2, CpuLevel::V3] {
        for crypto in [false, true] {
            let model = CpuModel { level, crypto };
            assert_eq!(CpuModel::named(&model.name()), Some(model));
        }
    }
    assert_eq!(CpuModel::named("v2+"), None);
}

#[test]
fn a_host_that_needs_defence_runs_the_model_without_saying_otherwise() {
    let model = CpuModel { level: CpuLevel::V2, crypto: false };
    let mut host = model.cpuid(1);
    // LFENCE serializes and null selectors clear the base, no automatic IBRS.
    host.set(0x8000_0021, CpuidValue { eax: 0x44, ..CpuidValue::default() });
    assert_eq!(CpuModel::best(CpuLevel::V2, &host), Ok(model));
    assert_eq!(model.cpuid_on(1, &host).get(0x8000_0021, 0).eax, 0x44);
    assert_eq!(model.cpuid_on(1, &model.cpuid(1)), model.cpuid(1));
}

#[test]
fn every_vp_sees_its_own_apic_id() {
    let table = CpuModel { level: CpuLevel::V2, crypto: true }.cpuid(4);
    assert_eq!(table.query(1, 0, VP).ebx >> 24, 3);
    assert_eq!(table.query(0xb, 1, VP).edx, 3);
    assert_eq!(table.query(0xb, 1, VP).ebx, 4);
}

#[test]
fn the_xsave_size_follows_xcr0() {
    let table = CpuModel { level: CpuLevel::V3, crypto: false }.cpuid(1);
    assert_eq!(table.query(0xd, 0, VP).ebx, 576);
    assert_eq!(table.query(0xd, 0, CpuidContext { xcr0: 7, ..VP }).ebx, 832);
}

#[test]
fn a_host_without_avx2_runs_v2_but_not_v3() {
    let mut host = CpuModel { level: CpuLevel::V3, crypto: true }.cpuid(1);
    let leaf_7 = host.get(7, 0);
    host.set_indexed(7, 0, CpuidValue { ebx: leaf_7.ebx & !(1 << 5), ..leaf_7 });
    assert_eq!(CpuModel::best(CpuLevel::V2, &host), Ok(CpuModel { level: CpuLevel::V2, crypto: true }));
    assert_eq!(CpuModel::best(CpuLevel::V3, &host), Err(vec![(7, 0, "ebx", 1 << 5)]));
    let masked = CpuModel { level: CpuLevel::V3, crypto: true }.cpuid(1).intersect_features(&host);
    assert!(masked.features_missing_in(&host).is_empty());
}

#[test]
fn the_brand_string_names_the_model() {
    let table = CpuModel { level: CpuLevel::V2, crypto: true }.cpuid(1);
    let bytes: Vec<u8> = (0x8000_0002..=0x8000_0004)
        .map(|leaf| table.get(leaf, 0))
        .flat_map(|v| [v.eax, v.ebx, v.ecx, v.edx])
        .flat_map(u32::to_le_bytes)
        .collect();
    let brand = String::from_utf8(bytes).expect("ASCII");
    assert_eq!(brand.trim_end_matches(['\0', ' ']), "Bulkhead virtual processor v2+crypto");
}
