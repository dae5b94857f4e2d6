//! Two VPs on two threads: locked operations, split locks, and code that one writes and the other runs.
#![allow(clippy::disallowed_methods, reason = "a VP runs on a thread of its own")]

use bulkhead_engine::cpu_model::{CpuLevel, CpuModel};
use bulkhead_engine::{
    Access, Activity, DescriptorTable, Engine, Partition, PartitionConfig, RunLimit, Segment, Stop, VpExits, VpState,
    seg,
};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{HostReactor, Time};
use bulkhead_soft::SoftEngine;
use iced_x86::code_asm::*;
use std::sync::Arc;

const RAM: u64 = 2 << 20;
const CODE: [u64; 2] = [0x1_0000, 0x1_8000];
const FUNCTION: u64 = 0x1_4000;
const DATA: u64 = 0x2_0000;
const STACK: [u64; 2] = [0x3_0000, 0x3_8000];
const TABLES: u64 = 0x4000;
const DONE: u16 = 0x80;

/// A write to port `DONE` ends the VP's run.
struct Exits {
    partition: Arc<dyn Partition>,
    index: u32,
    result: Option<u32>,
}

impl VpExits for Exits {
    fn port_in(&mut self, _: u16, _: u8) -> u32 {
        0
    }
    fn port_out(&mut self, port: u16, _: u8, value: u32) {
        if port == DONE {
            self.result = Some(value);
            self.partition.kick(self.index);
        }
    }
    fn mmio_read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }
    fn mmio_write(&mut self, _: u64, _: &[u8]) {}
    fn msr_read(&mut self, _: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _: u32, _: u64) -> Option<()> {
        None
    }
    fn acknowledge_ext_int(&mut self) -> Option<u8> {
        None
    }
    fn end_of_interrupt(&mut self, _: u8) {}
}

fn state(index: usize) -> VpState {
    let flat = |selector, attributes| Segment { base: 0, limit: u32::MAX, selector, attributes };
    let mut state = VpState::power_on(index as u32, 0);
    state.segments = [flat(0x10, 0xc093); 6];
    state.segments[seg::CS] = flat(8, 0xa09b);
    state.gdtr = DescriptorTable::default();
    state.idtr = DescriptorTable::default();
    (state.cr0, state.cr3, state.cr4, state.efer) = (0x8001_0011, TABLES, 0x6b0, 0xd00);
    (state.rip, state.gpr[4]) = (CODE[index], STACK[index]);
    state.activity = Activity::Running;
    state
}

/// Runs one program per VP until each reports a value; returns the values and the memory.
fn run(programs: [&dyn Fn(&mut CodeAssembler); 2]) -> ([u32; 2], GuestMemory) {
    let (_reactor, reactor) = HostReactor::start(Time::ZERO).unwrap();
    let memory = GuestMemory::builder().anonymous(0, RAM).build().unwrap();
    memory.write_u64(TABLES, (TABLES + 0x1000) | 7).unwrap();
    memory.write_u64(TABLES + 0x1000, (TABLES + 0x2000) | 7).unwrap();
    memory.write_u64(TABLES + 0x2000, 0x87).unwrap();
    for (program, at) in programs.into_iter().zip(CODE) {
        let mut assembler = CodeAssembler::new(64).unwrap();
        program(&mut assembler);
        memory.write(at, &assembler.assemble(at).unwrap()).unwrap();
    }
    let config = PartitionConfig {
        vp_count: 2,
        memory: memory.clone(),
        cpuid: CpuModel { level: CpuLevel::V2, crypto: false }.cpuid(2),
        reactor,
        tsc_hz: 1_000_000_000,
        deterministic: false,
    };
    let partition = SoftEngine::new().create_partition(config).unwrap();
    partition.map(0..RAM, 0, Access::ReadWrite).unwrap();
    let threads = [0, 1].map(|index| {
        let mut vp = partition.create_vp(index, &state(index as usize)).unwrap();
        let mut exits = Exits { partition: partition.clone(), index, result: None };
        std::thread::spawn(move || {
            let stop = vp.run(&mut exits, RunLimit::Unlimited).unwrap();
            assert_eq!(stop, Stop::Kicked, "{:?}", vp.state().unwrap().rip);
            exits.result.unwrap()
        })
    });
    (threads.map(|thread| thread.join().unwrap()), memory)
}

fn report(a: &mut CodeAssembler) {
    a.mov(edx, u32::from(DONE)).unwrap();
    a.out(dx, eax).unwrap();
    a.hlt().unwrap();
}

#[test]
fn locked_operations_lose_nothing_even_across_pages() {
    let program = |a: &mut CodeAssembler| {
        let mut again = a.create_label();
        a.mov(rbx, DATA).unwrap();
        a.mov(ecx, 20_000).unwrap();
        a.mov(esi, 1).unwrap();
        a.set_label(&mut again).unwrap();
        a.lock().inc(qword_ptr(rbx)).unwrap();
        // Unaligned within a page, and across two pages.
        a.lock().inc(qword_ptr(rbx + 0x103d)).unwrap();
        a.mov(edi, esi).unwrap();
        a.lock().xadd(dword_ptr(rbx + 8), edi).unwrap();
        a.test(ecx, 127).unwrap();
        let mut skip = a.create_label();
        a.jne(skip).unwrap();
        a.lock().inc(qword_ptr(rbx + 0xffc)).unwrap();
        a.set_label(&mut skip).unwrap();
        a.dec(ecx).unwrap();
        a.jne(again).unwrap();
        a.mov(eax, 1).unwrap();
        report(a);
    };
    let (results, memory) = run([&program, &program]);
    assert_eq!(results, [1, 1]);
    assert_eq!(memory.read_u64(DATA).unwrap(), 40_000);
    assert_eq!(memory.read_u64(DATA + 0x103d).unwrap(), 40_000);
    assert_eq!(memory.read_u32(DATA + 8).unwrap(), 40_000);
    assert_eq!(memory.read_u64(DATA + 0xffc).unwrap(), 2 * (20_000 / 128));
}

#[test]
fn code_written_by_one_vp_is_run_by_the_other() {
    const ROUNDS: u32 = 300;
    // Writes "mov eax, round; ret", publishes the round, waits for the answer.
    let writer = |a: &mut CodeAssembler| {
        let (mut again, mut wait) = (a.create_label(), a.create_label());
        a.mov(rbx, DATA).unwrap();
        a.mov(rdi, FUNCTION).unwrap();
        a.mov(byte_ptr(rdi), 0xb8).unwrap();
        a.mov(byte_ptr(rdi + 5), 0xc3_u32).unwrap();
        a.xor(ecx, ecx).unwrap();
        a.set_label(&mut again).unwrap();
        a.inc(ecx).unwrap();
        a.mov(dword_ptr(rdi + 1), ecx).unwrap();
        a.mov(dword_ptr(rbx), ecx).unwrap();
        a.set_label(&mut wait).unwrap();
        a.pause().unwrap();
        a.cmp(dword_ptr(rbx + 64), ecx).unwrap();
        a.jne(wait).unwrap();
        a.cmp(ecx, ROUNDS as i32).unwrap();
        a.jne(again).unwrap();
        a.mov(eax, 1).unwrap();
        report(a);
    };
    // Waits for a round, serializes, calls, counts what is wrong.
    let runner = |a: &mut CodeAssembler| {
        let (mut again, mut right) = (a.create_label(), a.create_label());
        a.mov(r8, DATA).unwrap();
        a.mov(rdi, FUNCTION).unwrap();
        a.xor(esi, esi).unwrap();
        a.xor(r9d, r9d).unwrap();
        a.set_label(&mut again).unwrap();
        a.pause().unwrap();
        a.cmp(dword_ptr(r8), esi).unwrap();
        a.je(again).unwrap();
        a.mov(esi, dword_ptr(r8)).unwrap();
        a.xor(eax, eax).unwrap();
        a.cpuid().unwrap();
        a.call(rdi).unwrap();
        a.cmp(eax, esi).unwrap();
        a.je(right).unwrap();
        a.inc(r9d).unwrap();
        a.set_label(&mut right).unwrap();
        a.mov(dword_ptr(r8 + 64), esi).unwrap();
        a.cmp(esi, ROUNDS as i32).unwrap();
        a.jne(again).unwrap();
        a.mov(eax, r9d).unwrap();
        report(a);
    };
    let (results, _) = run([&writer, &runner]);
    assert_eq!(results, [1, 0], "the runner counts stale code");
}
