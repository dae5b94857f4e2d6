//! Where programs start: descriptor tables, page tables and registers for each mode.
//!
//! | address | what |
//! |---|---|
//! | 0x500 | GDT: 08 code64, 10 data, 18 code32, 20 code16, 28 data16, 30 user code32, 38 user data, 40 user code64, 48 TSS |
//! | 0x600 | address to go on at after an exception, 0 = none |
//! | 0x608 | own handlers in use: address of a table of 256 pointers, 0 = none |
//! | 0x700 | TSS with a bitmap that allows the ports below 0x100, the stack of privilege level 0 at 0x7000 and IST 1 at 0x6c00 |
//! | 0x1000 | IDT, gates to the stubs at 0x8100 + 16 n |
//! | 0x7800 | top of the stack |
//! | 0x8000 | the program |
//! | 0x10000 | page tables: the first GiB one to one, user-accessible |

use bulkhead_engine::{DescriptorTable, Segment, VpState, gpr, seg};
use bulkhead_guest_memory::GuestMemory;

use crate::Mode;

const GDT: u64 = 0x500;
const TSS: u64 = 0x700;
const TSS_LIMIT: u32 = 0x88;
const IDT: u64 = 0x1000;
const STACK: u64 = 0x7800;
const CODE: u64 = 0x8000;
const STUBS: u64 = 0x8100;
const TABLES: u64 = 0x1_0000;
const INSIDE: &str = "the layout lies within the bench's memory";

const DESCRIPTORS: [u64; 9] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_9b00_0000_ffff,
    0x000f_9b00_0000_ffff,
    0x000f_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
];

/// Writes the tables of `mode` and the program, and returns the state in which VP 0 starts.
pub fn prepare(memory: &GuestMemory, mode: Mode, code: &[u8]) -> VpState {
    memory.write(CODE, code).expect(INSIDE);
    let mut state = VpState::power_on(0, 0);
    state.rip = CODE;
    state.gpr[gpr::RSP] = STACK;
    state.gdtr = DescriptorTable { base: GDT, limit: 0x57 };
    state.idtr = DescriptorTable { base: IDT, limit: 0xfff };
    write_gdt(memory, mode);
    match mode {
        Mode::Real => real(memory, &mut state),
        Mode::Protected => protected(memory, &mut state),
        Mode::Paged => {
            protected(memory, &mut state);
            for entry in 0..256_u64 {
                memory.write_u32(TABLES + entry * 4, (entry << 22) as u32 | 0x87).expect(INSIDE);
            }
            (state.cr0, state.cr3, state.cr4) = (0x8001_0033, TABLES, 0x610);
        }
        Mode::Pae => {
            protected(memory, &mut state);
            memory.write_u64(TABLES, (TABLES + 0x1000) | 1).expect(INSIDE);
            identity_2m(memory, TABLES + 0x1000);
            (state.cr0, state.cr3, state.cr4) = (0x8001_0033, TABLES, 0x620);
        }
        Mode::Long => long(memory, &mut state),
    }
    state
}

fn write_gdt(memory: &GuestMemory, mode: Mode) {
    for (index, descriptor) in (0..).zip(DESCRIPTORS) {
        memory.write_u64(GDT + index * 8, descriptor).expect(INSIDE);
    }
    let busy = 0x8b_u64 << 40;
    memory.write_u64(GDT + 0x48, u64::from(TSS_LIMIT) | TSS << 16 | busy).expect(INSIDE);
    memory.write_u64(GDT + 0x50, 0).expect(INSIDE);
    if mode == Mode::Long {
        memory.write_u64(TSS + 4, 0x7000).expect(INSIDE);
        memory.write_u64(TSS + 0x24, 0x6c00).expect(INSIDE);
    } else {
        memory.write_u32(TSS + 4, 0x7000).expect(INSIDE);
        memory.write_u32(TSS + 8, 0x10).expect(INSIDE);
    }
    // User code may use the ports below 0x100, which are the bench's.
    memory.write_u16(TSS + 0x66, 0x68).expect(INSIDE);
    memory.fill(TSS + 0x68, 0x20, 0).expect(INSIDE);
    memory.write_u8(TSS + 0x88, 0xff).expect(INSIDE);
}

fn identity_2m(memory: &GuestMemory, directory: u64) {
    for entry in 0..512_u64 {
        memory.write_u64(directory + entry * 8, entry << 21 | 0x87).expect(INSIDE);
    }
}

fn real(memory: &GuestMemory, state: &mut VpState) {
    state.segments = [Segment::real_mode(0, false); 6];
    state.segments[seg::CS] = Segment::real_mode(0, true);
    state.idtr = DescriptorTable { base: IDT, limit: 0x3ff };
    for vector in 0..256_u64 {
        memory.write_u32(IDT + vector * 4, (STUBS + vector * 16) as u32).expect(INSIDE);
    }
}

fn flat(selector: u16, attributes: u16) -> Segment {
    Segment { base: 0, limit: u32::MAX, selector, attributes }
}

fn protected(memory: &GuestMemory, state: &mut VpState) {
    state.segments = [flat(0x10, 0xc093); 6];
    state.segments[seg::CS] = flat(0x18, 0xc09b);
    state.tr = Segment { base: TSS, limit: TSS_LIMIT, selector: 0x48, attributes: 0x8b };
    state.cr0 = 0x33;
    state.cr4 = 0x600;
    for vector in 0..256_u64 {
        let target = STUBS + vector * 16;
        let gate = target & 0xffff | 0x18 << 16 | 0x8e00 << 32 | (target >> 16) << 48;
        memory.write_u64(IDT + vector * 8, gate).expect(INSIDE);
    }
}

fn long(memory: &GuestMemory, state: &mut VpState) {
    state.segments = [flat(0x10, 0xc093); 6];
    state.segments[seg::CS] = flat(0x08, 0xa09b);
    state.tr = Segment { base: TSS, limit: TSS_LIMIT, selector: 0x48, attributes: 0x8b };
    for vector in 0..256_u64 {
        let target = STUBS + vector * 16;
        let gate = target & 0xffff | 0x08 << 16 | 0x8e00 << 32 | (target >> 16) << 48;
        memory.write_u64(IDT + vector * 16, gate).expect(INSIDE);
        memory.write_u64(IDT + vector * 16 + 8, 0).expect(INSIDE);
    }
    memory.write_u64(TABLES, (TABLES + 0x1000) | 7).expect(INSIDE);
    memory.write_u64(TABLES + 0x1000, (TABLES + 0x2000) | 7).expect(INSIDE);
    // The fourth GiB holds MMIO and the local APIC.
    memory.write_u64(TABLES + 0x1018, (TABLES + 0x3000) | 7).expect(INSIDE);
    identity_2m(memory, TABLES + 0x2000);
    for entry in 0..512_u64 {
        memory.write_u64(TABLES + 0x3000 + entry * 8, (0xc000_0000 + (entry << 21)) | 0x87).expect(INSIDE);
    }
    (state.cr0, state.cr3, state.cr4, state.efer) = (0x8001_0033, TABLES, 0x620, 0xd01);
}
