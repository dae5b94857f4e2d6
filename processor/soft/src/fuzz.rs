//! Fuzz targets: random bytes as guest code in every mode, and random page tables.

use crate::mmu::walk::{Access, Paging, Tables, walk};
use crate::options::Options;
use crate::partition::SoftEngine;
use bulkhead_engine::cpu_model::{CpuLevel, CpuModel};
use bulkhead_engine::{
    Access as MapAccess, DescriptorTable, Engine, PartitionConfig, RunLimit, Segment, Stop, VpExits, VpState, seg,
};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{Time, VirtualReactor};
use std::cell::Cell;

const RAM: u64 = 1 << 20;
const CODE: u64 = 0x1_0000;
const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const PAGE_TABLES: u64 = 0x4000;

/// Answers every exit with something that depends on what was asked.
struct Noise;

impl VpExits for Noise {
    fn port_in(&mut self, port: u16, _: u8) -> u32 {
        u32::from(port).wrapping_mul(0x9e37_79b9)
    }
    fn port_out(&mut self, _: u16, _: u8, _: u32) {}
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        data.fill(gpa as u8);
    }
    fn mmio_write(&mut self, _: u64, _: &[u8]) {}
    fn msr_read(&mut self, msr: u32) -> Option<u64> {
        (msr & 1 != 0).then_some(0x1234)
    }
    fn msr_write(&mut self, msr: u32, _: u64) -> Option<()> {
        (msr & 1 != 0).then_some(())
    }
    fn acknowledge_ext_int(&mut self) -> Option<u8> {
        Some(0x21)
    }
    fn end_of_interrupt(&mut self, _: u8) {}
}

/// Guest memory behind [`RAM`] that no guest address leads to: nothing may change it.
const CANARY: u64 = 0x4000;
const CANARY_BYTE: u8 = 0xc5;

/// Runs `data` as guest code: the first byte chooses the mode, the rest is code. Ends by itself, whatever the code. Both
/// tiers must do the same, and neither may touch memory that the guest has no address for.
pub fn fuzz(data: &[u8]) {
    let interpreted = run(data, Options::INTERPRETER);
    let translated = run(data, Options { code_cache: 1 << 20, ..Options::EAGER });
    if interpreted == translated {
        return;
    }
    let (Some(a), Some(b)) = (&interpreted, &translated) else { panic!("one tier ran, the other did not") };
    let memory = a.memory.iter().zip(&b.memory).position(|(a, b)| a != b);
    panic!("the tiers differ; first in memory at {memory:x?}\ninterpreter {:x?}\ntranslator {:x?}", a.vp, b.vp);
}

/// How a run ended.
#[derive(PartialEq)]
struct Outcome {
    vp: VpState,
    memory: Vec<u8>,
}

fn run(data: &[u8], options: Options) -> Option<Outcome> {
    let engine = SoftEngine::with_options(options);
    let (&mode, code) = data.split_first()?;
    let (_virtual, reactor) = VirtualReactor::new(Time::ZERO, 1).ok()?;
    let memory = GuestMemory::builder().anonymous(0, RAM + CANARY).build().ok()?;
    let code = &code[..code.len().min(0x8000)];
    memory.write(CODE, code).ok()?;
    memory.fill(RAM, CANARY, CANARY_BYTE).ok()?;
    // Also as data and stack.
    let _ = memory.write(0x8_0000, code);
    let cpuid = CpuModel { level: CpuLevel::V3, crypto: true }.cpuid(1);
    let signature = cpuid.get(1, 0).eax;
    let cpuid = cpuid.intersect_features(&engine.supported_cpuid());
    let state = start_state(&memory, mode, signature);
    let (tsc_hz, deterministic) = (1_000_000_000, true);
    let config = PartitionConfig { vp_count: 1, memory: memory.clone(), cpuid, reactor, tsc_hz, deterministic };
    let partition = engine.create_partition(config).ok()?;
    let mapped = partition.map(0..RAM / 2, 0, MapAccess::ReadWrite).is_ok()
        && partition.map(RAM / 2..RAM - 0x1_0000, RAM / 2, MapAccess::ReadWrite).is_ok()
        && partition.map(RAM - 0x1_0000..RAM, RAM - 0x1_0000, MapAccess::ReadOnly).is_ok();
    let mut vp = partition.create_vp(0, &state).ok().filter(|_| mapped)?;
    for round in 0..8 {
        match vp.run(&mut Noise, RunLimit::Instructions(250)) {
            Ok(Stop::Halted) => partition.inject_nmi(0),
            Ok(Stop::TripleFault) | Err(_) => break,
            Ok(_) if round == 4 => {
                // Whatever state it is in can be saved and restored.
                if let Ok(saved) = vp.state() {
                    let _ = vp.set_state(&saved);
                }
            }
            Ok(_) => {}
        }
    }
    let mut bytes = vec![0; (RAM + CANARY) as usize];
    memory.read(0, &mut bytes).ok()?;
    assert!(bytes[RAM as usize..].iter().all(|&byte| byte == CANARY_BYTE), "memory without an address was written");
    Some(Outcome { vp: vp.state().ok()?, memory: bytes })
}

fn start_state(memory: &GuestMemory, mode: u8, signature: u32) -> VpState {
    let mut state = VpState::power_on(0, signature);
    for (index, register) in state.gpr.iter_mut().enumerate() {
        *register = 0x8_0000 + 0x100 * index as u64;
    }
    state.rip = CODE & 0xffff;
    state.segments[seg::CS] = Segment::real_mode((CODE >> 4) as u16, true);
    if mode & 3 == 0 {
        return state;
    }
    let write = |gpa: u64, value: u64| {
        let _ = memory.write_u64(gpa, value);
    };
    // Null, 64-bit code, data, 32-bit code, user code, user data, 16-bit code, call gate, TSS.
    let descriptors = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_9b00_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x0000_9b00_0000_ffff,
        0x0001_ec00_0008_0000,
        0,
        0x0000_8900_3000_0067,
        0,
    ];
    for (index, descriptor) in descriptors.into_iter().enumerate() {
        write(GDT + 8 * index as u64, descriptor);
    }
    let long = mode & 3 == 3;
    let selector = if long { 8 } else { 0x18 };
    for vector in 0..32 {
        let gate = (CODE & 0xffff) | selector << 16 | 0x8e << 40 | (CODE >> 16) << 48;
        write(IDT + vector * if long { 16 } else { 8 }, gate);
    }
    write(PAGE_TABLES, (PAGE_TABLES + 0x1000) | 7);
    write(PAGE_TABLES + 0x1000, (PAGE_TABLES + 0x2000) | 7);
    write(PAGE_TABLES + 0x2000, 0x87);
    write(PAGE_TABLES + 0x2008, (PAGE_TABLES + 0x3000) | 7);
    write(PAGE_TABLES + 0x3000, CODE | 5);
    let flat = |selector, attributes| Segment { base: 0, limit: u32::MAX, selector, attributes };
    state.gdtr = DescriptorTable { base: GDT, limit: 0x5f };
    state.idtr = DescriptorTable { base: IDT, limit: 0x1ff };
    state.tr = Segment { base: 0x3000, limit: 0x67, selector: 0x48, attributes: 0x8b };
    state.segments = [flat(0x10, 0xc093); 6];
    state.segments[seg::CS] = if long { flat(8, 0xa09b) } else { flat(0x18, 0xc09b) };
    state.cr0 = 0x11;
    state.cr4 = 0x600;
    state.rip = CODE;
    if long {
        state.cr0 |= 1 << 31;
        state.cr3 = PAGE_TABLES;
        state.cr4 |= 0x20;
        state.efer = 0x501;
    }
    if mode & 4 != 0 {
        state.rflags |= 0x100;
    }
    if mode & 8 != 0 {
        // User mode.
        state.segments = [flat(0x2b, 0xc0f3); 6];
        state.segments[seg::CS] = if long { flat(0x23, 0xa0fb) } else { flat(0x23, 0xc0fb) };
    }
    if mode & 3 == 2 {
        state.rflags |= 1 << 17 | 3 << 12;
        state.segments = [Segment { base: 0x8_0000, limit: 0xffff, selector: 0x8000, attributes: 0xf3 }; 6];
        state.segments[seg::CS] = Segment { base: CODE, limit: 0xffff, selector: 0x1000, attributes: 0xf3 };
        state.rip = 0;
    }
    state
}

/// Page tables made of fuzz bytes: entry n of all of memory is `data[n % len]`.
struct RandomTables<'a> {
    data: &'a [u8],
    failures: Cell<u32>,
}

impl RandomTables<'_> {
    fn byte(&self, at: u64) -> u8 {
        self.data[(at % self.data.len() as u64) as usize]
    }
    /// An entry changes under the walker's hands now and then.
    fn set(&self) -> bool {
        self.failures.set(self.failures.get() + 1);
        !self.failures.get().is_multiple_of(3)
    }
}

impl Tables for RandomTables<'_> {
    fn read_u64(&self, gpa: u64) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|index| self.byte(gpa.wrapping_add(index as u64))))
    }
    fn read_u32(&self, gpa: u64) -> u32 {
        self.read_u64(gpa) as u32
    }
    fn set_bits_u64(&self, _: u64, _: u64, _: u64) -> bool {
        self.set()
    }
    fn set_bits_u32(&self, _: u64, _: u32, _: u32) -> bool {
        self.set()
    }
}

/// Walks random page tables in all paging modes: an answer or a fault, always inside the physical address width.
pub fn fuzz_walk(data: &[u8]) {
    let Some((&[mode, rights], tables)) = data.split_first_chunk::<2>() else { return };
    if tables.len() < 9 {
        return;
    }
    let bit = |value: u8, bit: u8| value >> bit & 1 != 0;
    let paging = Paging {
        cr3: u64::from_le_bytes(std::array::from_fn(|index| tables[index])) & ((1 << 40) - 1),
        enabled: true,
        write_protect: bit(mode, 0),
        pse: bit(mode, 1),
        pae: bit(mode, 2),
        long: bit(mode, 2) && bit(mode, 3),
        nx: bit(mode, 4),
        smep: bit(mode, 5),
        global: bit(mode, 6),
        pages_1g: bit(mode, 7),
    };
    let access = [Access::Read, Access::Write, Access::Execute][usize::from(rights) % 3];
    let random = RandomTables { data: tables, failures: Cell::new(0) };
    for step in 0..16_u64 {
        let linear = u64::from(rights).wrapping_mul(0x0001_0203_0405_0607).wrapping_add(step << 39 | step << 12);
        let linear = if paging.long { (linear as i64) << 16 >> 16 } else { i64::from(linear as u32) } as u64;
        if let Ok(found) = walk(&random, paging, linear, access, bit(rights, 7), bit(rights, 6)) {
            assert!(found.page < 1 << 40 && found.page & 0xfff == 0, "{found:?}");
            assert!(access != Access::Execute || found.executable, "{found:?}");
        }
    }
}
