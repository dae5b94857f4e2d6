//! The walker against tables written by hand.

use super::walk::{Access, Paging, Tables, Translation, code, walk};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Entries by address; 4-byte entries share the map.
#[derive(Default)]
struct Memory(RefCell<BTreeMap<u64, u64>>);

impl Memory {
    fn put(&self, gpa: u64, entry: u64) {
        self.0.borrow_mut().insert(gpa, entry);
    }
    fn get(&self, gpa: u64) -> u64 {
        self.0.borrow().get(&gpa).copied().unwrap_or(0)
    }
}

impl Tables for Memory {
    fn read_u64(&self, gpa: u64) -> u64 {
        self.get(gpa)
    }
    fn read_u32(&self, gpa: u64) -> u32 {
        self.get(gpa) as u32
    }
    fn set_bits_u64(&self, gpa: u64, old: u64, bits: u64) -> bool {
        assert_eq!(self.get(gpa), old);
        self.put(gpa, old | bits);
        true
    }
    fn set_bits_u32(&self, gpa: u64, old: u32, bits: u32) -> bool {
        self.set_bits_u64(gpa, old.into(), bits.into())
    }
}

const LONG: Paging = Paging {
    cr3: 0x1000,
    enabled: true,
    write_protect: true,
    pse: false,
    pae: true,
    long: true,
    nx: true,
    smep: true,
    global: true,
    pages_1g: true,
};
const NX: u64 = 1 << 63;
const P_W_U: u64 = 7;

/// 4 KiB page 0x9000 at linear 0x8000_0020_3000 of the upper half.
fn long_tables(leaf: u64) -> (Memory, u64) {
    let memory = Memory::default();
    memory.put(0x1000 + 256 * 8, 0x2000 | P_W_U);
    memory.put(0x2000, 0x3000 | P_W_U);
    memory.put(0x3000 + 8, 0x4000 | P_W_U);
    memory.put(0x4000 + 3 * 8, 0x9000 | leaf);
    (memory, 0xffff_8000_0020_3000)
}

fn fault(memory: &Memory, paging: Paging, linear: u64, access: Access, user: bool) -> u32 {
    walk(memory, paging, linear, access, user, true).unwrap_err()
}

#[test]
fn four_levels_reach_a_page_and_mark_what_they_used() {
    let (memory, linear) = long_tables(P_W_U);
    let found = walk(&memory, LONG, linear + 0x123, Access::Read, true, true).unwrap();
    let expected = Translation { page: 0x9000, size: 12, writable: false, executable: true, global: false };
    assert_eq!(found, expected, "not dirty yet: writes must come back");
    for entry in [0x1000 + 256 * 8, 0x2000, 0x3008, 0x4018] {
        assert_eq!(memory.get(entry) & 0x60, 0x20, "{entry:#x}");
    }
    assert!(walk(&memory, LONG, linear, Access::Write, true, true).unwrap().writable);
    assert_eq!(memory.get(0x4018) & 0x60, 0x60);
    assert_eq!(memory.get(0x3008) & 0x40, 0, "only the last entry becomes dirty");
}

#[test]
fn a_quiet_walk_marks_nothing() {
    let (memory, linear) = long_tables(P_W_U);
    walk(&memory, LONG, linear, Access::Write, false, false).unwrap();
    assert_eq!(memory.get(0x4018), 0x9000 | P_W_U);
}

#[test]
fn rights_are_those_of_all_levels() {
    let (memory, linear) = long_tables(P_W_U);
    memory.put(0x3008, 0x4000 | 1 | 4);
    assert_eq!(fault(&memory, LONG, linear, Access::Write, true), code::PRESENT | code::WRITE | code::USER);
    memory.put(0x3008, 0x4000 | 1 | 2);
    assert_eq!(fault(&memory, LONG, linear, Access::Read, true), code::PRESENT | code::USER);
    memory.put(0x2000, 0x3000 | P_W_U | NX);
    assert_eq!(fault(&memory, LONG, linear, Access::Execute, false), code::PRESENT | code::FETCH);
    memory.put(0x2000, 0);
    assert_eq!(fault(&memory, LONG, linear, Access::Write, false), code::WRITE);
}

#[test]
fn write_protect_and_smep_bind_the_supervisor() {
    let (memory, linear) = long_tables(5);
    assert_eq!(fault(&memory, LONG, linear, Access::Write, false), code::PRESENT | code::WRITE);
    let free = Paging { write_protect: false, ..LONG };
    assert!(walk(&memory, free, linear, Access::Write, false, true).unwrap().writable);
    assert_eq!(fault(&memory, LONG, linear, Access::Execute, false), code::PRESENT | code::FETCH);
    let free = Paging { smep: false, ..LONG };
    assert!(walk(&memory, free, linear, Access::Execute, false, true).unwrap().executable);
    assert!(walk(&memory, LONG, linear, Access::Execute, true, true).unwrap().executable);
}

#[test]
fn reserved_bits_fault() {
    let reserved = code::PRESENT | code::RESERVED;
    let (memory, linear) = long_tables(P_W_U | 1 << 40);
    assert_eq!(fault(&memory, LONG, linear, Access::Read, false), reserved);
    let (memory, linear) = long_tables(P_W_U | NX);
    let without_nx = Paging { nx: false, smep: false, ..LONG };
    assert_eq!(fault(&memory, without_nx, linear, Access::Execute, false), reserved, "fetches are not told apart");
    // A large page whose address is not aligned, and one at a level that has none.
    memory.put(0x3008, 0x4000 | P_W_U | 0x80);
    assert_eq!(fault(&memory, LONG, linear, Access::Read, false), reserved);
    memory.put(0x1000 + 256 * 8, 0x2000 | P_W_U | 0x80);
    assert_eq!(fault(&memory, LONG, linear, Access::Read, false), reserved);
    let (memory, linear) = long_tables(P_W_U);
    memory.put(0x2000, 0x4000_0000 | P_W_U | 0x80);
    let no_1g = Paging { pages_1g: false, ..LONG };
    assert_eq!(fault(&memory, no_1g, linear, Access::Read, false), reserved);
}

#[test]
fn large_pages_of_long_mode() {
    let (memory, linear) = long_tables(0);
    memory.put(0x3008, 0x60_0000 | P_W_U | 0x180);
    let found = walk(&memory, LONG, linear, Access::Write, false, true).unwrap();
    assert_eq!(found, Translation { page: 0x60_3000, size: 21, writable: true, executable: false, global: true });
    memory.put(0x2000, 0x40_0000_0000 | P_W_U | 0x80);
    let found = walk(&memory, LONG, linear, Access::Read, true, true).unwrap();
    assert_eq!((found.page, found.size), (0x40_0020_3000, 30));
}

#[test]
fn pae_has_four_pointers_without_rights() {
    let pae = Paging { cr3: 0x1020, long: false, ..LONG };
    let memory = Memory::default();
    memory.put(0x1020 + 3 * 8, 0x2000 | 1);
    memory.put(0x2000 + 8, 0xa0_0000 | P_W_U | 0x80);
    let found = walk(&memory, pae, 0xc020_3000, Access::Write, true, true).unwrap();
    assert_eq!((found.page, found.size), (0xa0_3000, 21));
    assert_eq!(memory.get(0x1020 + 3 * 8), 0x2001, "pointers have no accessed bit");
    memory.put(0x1020 + 3 * 8, 0x2000 | 3);
    assert_eq!(fault(&memory, pae, 0xc020_3000, Access::Read, false), code::PRESENT | code::RESERVED);
}

#[test]
fn two_levels_and_pse36() {
    let legacy = Paging { cr3: 0x1000, pae: false, long: false, nx: false, smep: false, pse: true, ..LONG };
    let memory = Memory::default();
    memory.put(0x1000 + 4, 0x2000 | P_W_U);
    memory.put(0x2000 + 3 * 4, 0x9000 | 5);
    let found = walk(&memory, legacy, 0x40_3000, Access::Read, true, true).unwrap();
    assert_eq!((found.page, found.size, found.executable), (0x9000, 12, true));
    assert_eq!(fault(&memory, legacy, 0x40_3000, Access::Write, true), 7);
    // Address bits 39:32 in bits 20:13.
    memory.put(0x1000 + 8, 0x0080_0000 | 0x5a << 13 | P_W_U | 0x80);
    let found = walk(&memory, legacy, 0x80_5000, Access::Write, true, true).unwrap();
    assert_eq!((found.page, found.size), (0x5a_0080_5000, 22));
    memory.put(0x1000 + 8, 0x0080_0000 | 1 << 21 | P_W_U | 0x80);
    assert_eq!(fault(&memory, legacy, 0x80_5000, Access::Read, false), code::PRESENT | code::RESERVED);
    let no_pse = Paging { pse: false, ..legacy };
    assert_eq!(fault(&memory, no_pse, 0x80_5000, Access::Read, false), 0, "the same entry is a table then");
}

#[test]
fn without_paging_addresses_are_32_bits() {
    let off = Paging { enabled: false, ..LONG };
    let found = walk(&Memory::default(), off, 0x1_2345_6789, Access::Write, true, true).unwrap();
    assert_eq!(found.page, 0x2345_6000);
}
