//! Tiny guest programs on the software engine: what only this engine can get wrong (its caches, its TLB, its limits).

use bulkhead_engine::cpu_model::{CpuLevel, CpuModel};
use bulkhead_engine::{
    Access, Activity, DescriptorTable, Engine, Msi, Partition, PartitionConfig, RunLimit, Segment, Stop, Vp, VpExits,
    VpState, seg,
};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use bulkhead_soft::SoftEngine;
use iced_x86::code_asm::*;
use std::sync::Arc;
use std::time::Duration;

const RAM: u64 = 4 << 20;
const CODE: u64 = 0x1_0000;
const DATA: u64 = 0x2_0000;
const STACK: u64 = 0x3_0000;
const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const TABLES: u64 = 0x4000;
const SCRATCH_TABLE: u64 = 0x8000;
/// Linear page that tests map by hand, through `SCRATCH_TABLE`.
const WINDOW: u64 = 0x4000_0000;

#[derive(Default)]
struct Ports {
    out: Vec<(u16, u32)>,
    mmio: Vec<(u64, Vec<u8>)>,
}

impl VpExits for Ports {
    fn port_in(&mut self, port: u16, _: u8) -> u32 {
        u32::from(port) + 1
    }
    fn port_out(&mut self, port: u16, _: u8, value: u32) {
        self.out.push((port, value));
    }
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        data.fill(gpa as u8);
    }
    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        self.mmio.push((gpa, data.to_vec()));
    }
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

struct Guest {
    memory: GuestMemory,
    partition: Arc<dyn Partition>,
    vp: Box<dyn Vp>,
    ports: Ports,
    time: VirtualReactor,
    _reactor: Reactor,
}

/// The state of a VP in 64-bit mode at CPL 0, identity-mapped below 2 MiB; every exception halts at its own address.
fn long_mode(memory: &GuestMemory, index: u32) -> VpState {
    let put = |gpa, value: u64| memory.write_u64(gpa, value).unwrap();
    for (index, descriptor) in [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff].into_iter().enumerate() {
        put(GDT + 8 * index as u64, descriptor);
    }
    put(TABLES, (TABLES + 0x1000) | 7);
    put(TABLES + 0x1000, (TABLES + 0x2000) | 7);
    put(TABLES + 0x1008, (TABLES + 0x3000) | 7);
    put(TABLES + 0x2000, 0x87);
    put(TABLES + 0x2008, 0x20_0087);
    put(TABLES + 0x3000, SCRATCH_TABLE | 7);
    let mut state = VpState::power_on(index, 0);
    let flat = |selector, attributes| Segment { base: 0, limit: u32::MAX, selector, attributes };
    state.segments = [flat(0x10, 0xc093); 6];
    state.segments[seg::CS] = flat(8, 0xa09b);
    state.gdtr = DescriptorTable { base: GDT, limit: 0x17 };
    state.idtr = DescriptorTable { base: IDT, limit: 0xfff };
    (state.cr0, state.cr3, state.cr4, state.efer) = (0x8001_0011, TABLES, 0x6b0, 0xd00);
    state.rip = CODE;
    state.gpr[4] = STACK;
    state.activity = Activity::Running;
    state
}

fn guest(code: impl FnOnce(&mut CodeAssembler)) -> Guest {
    let (time, reactor) = VirtualReactor::new(Time::ZERO, 1).unwrap();
    let memory = GuestMemory::builder().anonymous(0, RAM).build().unwrap();
    let mut assembler = CodeAssembler::new(64).unwrap();
    code(&mut assembler);
    memory.write(CODE, &assembler.assemble(CODE).unwrap()).unwrap();
    let config = PartitionConfig {
        vp_count: 1,
        memory: memory.clone(),
        cpuid: CpuModel { level: CpuLevel::V2, crypto: false }.cpuid(1),
        reactor: reactor.clone(),
        tsc_hz: 1_000_000_000,
        deterministic: true,
    };
    let partition = SoftEngine::new().create_partition(config).unwrap();
    partition.map(0..RAM, 0, Access::ReadWrite).unwrap();
    let vp = partition.create_vp(0, &long_mode(&memory, 0)).unwrap();
    Guest { memory, partition, vp, ports: Ports::default(), time, _reactor: reactor }
}

impl Guest {
    fn run(&mut self, instructions: u64) -> Stop {
        self.vp.run(&mut self.ports, RunLimit::Instructions(instructions)).unwrap()
    }
    fn run_to_halt(&mut self) -> VpState {
        assert_eq!(self.run(1_000_000), Stop::Halted);
        self.vp.state().unwrap()
    }
    fn gate(&self, vector: u64, handler: u64) {
        self.memory
            .write_u64(IDT + 16 * vector, handler & 0xffff | 8 << 16 | 0x8e << 40 | (handler >> 16) << 48)
            .unwrap();
    }
    fn handler(&self, vector: u64, at: u64, code: impl FnOnce(&mut CodeAssembler)) {
        let mut assembler = CodeAssembler::new(64).unwrap();
        code(&mut assembler);
        self.memory.write(at, &assembler.assemble(at).unwrap()).unwrap();
        self.gate(vector, at);
    }
}

#[test]
fn code_that_rewrites_the_next_instruction_sees_it() {
    let mut guest = guest(|a| {
        let mut patched = a.create_label();
        a.lea(rbx, ptr(patched)).unwrap();
        // mov eax, imm32: change the immediate right before it runs, in the same block.
        a.mov(dword_ptr(rbx + 1), 0x1234_5678).unwrap();
        a.set_label(&mut patched).unwrap();
        a.mov(eax, 1).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(guest.run_to_halt().gpr[0], 0x1234_5678);
}

#[test]
fn a_loop_that_patches_itself_never_runs_old_code() {
    let mut guest = guest(|a| {
        let (mut again, mut patched) = (a.create_label(), a.create_label());
        a.lea(rbx, ptr(patched)).unwrap();
        a.xor(ecx, ecx).unwrap();
        a.xor(edx, edx).unwrap();
        a.set_label(&mut again).unwrap();
        a.inc(ecx).unwrap();
        a.mov(dword_ptr(rbx + 1), ecx).unwrap();
        a.set_label(&mut patched).unwrap();
        a.mov(eax, 0).unwrap();
        a.add(edx, eax).unwrap();
        a.cmp(ecx, 100).unwrap();
        a.jne(again).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(guest.run_to_halt().gpr[2], 5050);
}

#[test]
fn code_written_by_a_device_is_decoded_again() {
    let mut guest = guest(|a| {
        a.mov(eax, 1).unwrap();
        a.hlt().unwrap();
        a.jmp(CODE).unwrap();
    });
    assert_eq!(guest.run_to_halt().gpr[0], 1);
    guest.memory.write(CODE + 1, &7_u32.to_le_bytes()).unwrap();
    let mut state = guest.vp.state().unwrap();
    state.activity = Activity::Running;
    guest.vp.set_state(&state).unwrap();
    assert_eq!(guest.run_to_halt().gpr[0], 7);
}

#[test]
fn instructions_that_cross_a_page_follow_both_pages() {
    // mov eax, imm32 whose immediate begins on the last byte of a page.
    let mut guest = guest(|a| {
        a.jmp(CODE + 0xffe).unwrap();
    });
    guest.memory.write(CODE + 0xffe, &[0xb8, 0x11, 0x22, 0x33, 0x44, 0xf4, 0xeb, 0xf8]).unwrap();
    assert_eq!(guest.run_to_halt().gpr[0], 0x4433_2211);
    guest.memory.write(CODE + 0x1001, &[0x55]).unwrap();
    let mut state = guest.vp.state().unwrap();
    state.activity = Activity::Running;
    guest.vp.set_state(&state).unwrap();
    assert_eq!(guest.run_to_halt().gpr[0], 0x4455_2211);
}

#[test]
fn translations_live_until_they_are_flushed() {
    let (first, second) = (DATA, DATA + 0x1000);
    let mut guest = guest(|a| {
        a.mov(rbx, WINDOW).unwrap();
        a.mov(rsi, SCRATCH_TABLE).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.mov(qword_ptr(rsi), (second | 3) as i32).unwrap();
        a.invlpg(ptr(rbx)).unwrap();
        a.mov(rcx, qword_ptr(rbx)).unwrap();
        // CR3: flushed as well.
        a.mov(qword_ptr(rsi), (first | 3) as i32).unwrap();
        a.mov(rdx, cr3).unwrap();
        a.mov(cr3, rdx).unwrap();
        a.mov(rdi, qword_ptr(rbx)).unwrap();
        // A global page survives CR3, but not INVLPG.
        a.mov(qword_ptr(rsi), (first | 0x103) as i32).unwrap();
        a.invlpg(ptr(rbx)).unwrap();
        a.mov(r8, qword_ptr(rbx)).unwrap();
        a.mov(qword_ptr(rsi), (second | 0x103) as i32).unwrap();
        a.mov(cr3, rdx).unwrap();
        a.mov(r9, qword_ptr(rbx)).unwrap();
        a.invlpg(ptr(rbx)).unwrap();
        a.mov(r10, qword_ptr(rbx)).unwrap();
        a.hlt().unwrap();
    });
    guest.memory.write_u64(first, 1).unwrap();
    guest.memory.write_u64(second, 2).unwrap();
    guest.memory.write_u64(SCRATCH_TABLE, first | 3).unwrap();
    let state = guest.run_to_halt();
    assert_eq!([state.gpr[0], state.gpr[1], state.gpr[7]], [1, 2, 1]);
    assert_eq!([state.gpr[8], state.gpr[9], state.gpr[10]], [1, 1, 2]);
    assert_eq!(guest.memory.read_u64(SCRATCH_TABLE).unwrap() & 0x60, 0x20, "read: accessed, not dirty");
}

#[test]
fn page_faults_report_address_and_reason_and_restart() {
    let mut guest = guest(|a| {
        a.mov(rbx, WINDOW + 8).unwrap();
        a.mov(qword_ptr(rbx), 77).unwrap();
        a.mov(rcx, qword_ptr(rbx)).unwrap();
        a.hlt().unwrap();
    });
    // Maps the page and returns.
    guest.handler(14, CODE + 0x800, |a| {
        a.pop(rdx).unwrap();
        a.mov(rdi, cr2).unwrap();
        a.mov(rax, DATA | 3).unwrap();
        a.mov(qword_ptr(SCRATCH_TABLE), rax).unwrap();
        a.iretq().unwrap();
    });
    let state = guest.run_to_halt();
    assert_eq!([state.gpr[2], state.gpr[7], state.gpr[1]], [2, WINDOW + 8, 77]);
    assert_eq!(guest.memory.read_u64(DATA + 8).unwrap(), 77);
    assert_eq!(guest.memory.read_u64(SCRATCH_TABLE).unwrap() & 0x60, 0x60, "written: accessed and dirty");
}

#[test]
fn limits_are_exact_and_states_can_be_moved_at_any_instruction() {
    let program = |a: &mut CodeAssembler| {
        let mut again = a.create_label();
        a.mov(ecx, 20).unwrap();
        a.mov(rbx, DATA).unwrap();
        a.set_label(&mut again).unwrap();
        a.add(qword_ptr(rbx), rcx).unwrap();
        a.push(rcx).unwrap();
        a.imul_2(rcx, rcx).unwrap();
        a.pop(rdx).unwrap();
        a.lea(rcx, ptr(rdx - 1)).unwrap();
        a.sti().unwrap();
        a.test(ecx, ecx).unwrap();
        a.jne(again).unwrap();
        a.hlt().unwrap();
    };
    let mut whole = guest(program);
    let end = whole.run_to_halt();
    let total = whole.vp.stats().instructions.unwrap();
    assert_eq!(total, 2 + 20 * 8 + 1);
    let mut stepped = guest(program);
    for executed in 0..total {
        assert_eq!(stepped.vp.stats().instructions, Some(executed));
        let stop = stepped.run(1);
        assert!(matches!(stop, Stop::LimitReached), "{stop:?} after {executed}");
        let state = stepped.vp.state().unwrap();
        stepped.vp.set_state(&state).unwrap();
    }
    assert_eq!(stepped.run(1), Stop::Halted);
    let mut state = stepped.vp.state().unwrap();
    state.apic = end.apic.clone();
    assert_eq!(state, end);
    assert_eq!(stepped.memory.read_u64(DATA).unwrap(), 210);
}

#[test]
fn single_step_traps_behind_each_instruction() {
    let mut guest = guest(|a| {
        a.xor(r15d, r15d).unwrap();
        a.pushfq().unwrap();
        a.or(dword_ptr(rsp), 0x100).unwrap();
        a.popfq().unwrap();
        a.nop().unwrap();
        a.mov(ecx, 3).unwrap();
        a.mov(rdi, DATA).unwrap();
        // Three elements: three traps.
        a.rep().stosb().unwrap();
        a.pushfq().unwrap();
        a.and(dword_ptr(rsp), !0x100).unwrap();
        a.popfq().unwrap();
        a.hlt().unwrap();
    });
    guest.handler(1, CODE + 0x800, |a| {
        a.inc(r15d).unwrap();
        a.iretq().unwrap();
    });
    let state = guest.run_to_halt();
    // nop, mov, mov, 3 × stosb, pushf, and, popf (the trap behind the one that clears TF still comes).
    assert_eq!(state.gpr[15], 9);
    assert_eq!(state.dr[4] & 0x4000, 0x4000);
}

#[test]
fn data_and_instruction_breakpoints_are_met() {
    let mut guest = guest(|a| {
        a.mov(rax, DATA).unwrap();
        a.mov(dr0, rax).unwrap();
        a.mov(rax, CODE + 0x400).unwrap();
        a.mov(dr1, rax).unwrap();
        // DR0: 4-byte writes; DR1: execution.
        a.mov(eax, 0x000d_0400 | 0x5).unwrap();
        a.mov(dr7, rax).unwrap();
        a.mov(rbx, DATA + 2).unwrap();
        a.mov(cl, byte_ptr(rbx)).unwrap();
        a.mov(byte_ptr(rbx), 1).unwrap();
        a.jmp(CODE + 0x400).unwrap();
    });
    guest.memory.write(CODE + 0x400, &[0x90, 0xf4]).unwrap();
    guest.handler(1, CODE + 0x800, |a| {
        a.mov(rax, dr6).unwrap();
        a.and(eax, 15).unwrap();
        a.shl(r15, 4).unwrap();
        a.or(r15, rax).unwrap();
        a.xor(eax, eax).unwrap();
        a.mov(dr6, rax).unwrap();
        // RF: do not meet the instruction breakpoint again.
        a.or(dword_ptr(rsp + 16), 0x1_0000).unwrap();
        a.iretq().unwrap();
    });
    assert_eq!(guest.run_to_halt().gpr[15], 0x12);
}

#[test]
fn interrupts_wait_for_if_and_for_the_shadow_of_sti() {
    let mut guest = guest(|a| {
        a.mov(r14d, 1).unwrap();
        a.sti().unwrap();
        a.mov(r14d, 2).unwrap();
        a.mov(r14d, 3).unwrap();
        a.hlt().unwrap();
    });
    guest.handler(0x40, CODE + 0x800, |a| {
        a.mov(r13d, r14d).unwrap();
        a.mov(rax, 0xfee0_00b0_u64).unwrap();
        a.iretq().unwrap();
    });
    let mut state = guest.vp.state().unwrap();
    state.apic.registers[0xf0..0xf4].copy_from_slice(&0x1ff_u32.to_le_bytes());
    guest.vp.set_state(&state).unwrap();
    guest.partition.send_msi(Msi { address: 0xfee0_0000, data: 0x40 });
    assert_eq!(guest.run_to_halt().gpr[13], 2);
}

#[test]
fn the_apic_timer_ends_a_halt_in_virtual_time() {
    let mut guest = guest(|a| {
        a.mov(ebx, 0xfee0_0000_u32).unwrap();
        a.mov(dword_ptr(rbx + 0xf0), 0x1ff).unwrap();
        a.mov(dword_ptr(rbx + 0x320), 0x40).unwrap();
        a.mov(dword_ptr(rbx + 0x3e0), 0xb).unwrap();
        a.mov(dword_ptr(rbx + 0x380), 1000).unwrap();
        a.sti().unwrap();
        a.hlt().unwrap();
        a.cli().unwrap();
        a.hlt().unwrap();
    });
    // The local APIC's page.
    guest.memory.write_u64(TABLES + 0x1018, (SCRATCH_TABLE + 0x1000) | 3).unwrap();
    guest.memory.write_u64(SCRATCH_TABLE + 0x1000 + 0x1fb * 8 - 0x8, 0).unwrap();
    guest.memory.write_u64(SCRATCH_TABLE + 0x1000 + (0xfee0_0000_u64 >> 21 & 0x1ff) * 8, 0xfee0_0083).unwrap();
    guest.handler(0x40, CODE + 0x800, |a| {
        a.inc(r15d).unwrap();
        a.iretq().unwrap();
    });
    assert_eq!(guest.run(1000), Stop::Halted);
    let deadline = guest.time.next_deadline().unwrap();
    assert!(deadline >= Time::from_nanos(1000) && deadline <= Time::from_nanos(1010), "{deadline:?}");
    guest.time.advance_to(deadline);
    assert_eq!(guest.run_to_halt().gpr[15], 1);
    guest.time.advance_to(deadline + Duration::from_secs(1));
    assert_eq!(guest.run(10), Stop::Halted);
}

#[test]
fn the_dirty_log_sees_the_first_write_after_each_harvest() {
    let mut guest = guest(|a| {
        let mut again = a.create_label();
        a.mov(rbx, DATA).unwrap();
        a.set_label(&mut again).unwrap();
        a.inc(dword_ptr(rbx)).unwrap();
        a.jmp(again).unwrap();
    });
    guest.run(100);
    guest.partition.set_dirty_logging(true).unwrap();
    for _ in 0..3 {
        guest.run(100);
        guest.partition.sync_dirty_log().unwrap();
        let pages = guest.memory.dirty().harvest_ranges();
        assert_eq!(pages, vec![DATA >> 12..(DATA >> 12) + 1]);
    }
    guest.partition.set_dirty_logging(false).unwrap();
}

#[test]
fn rom_writes_and_holes_are_exits() {
    let mut guest = guest(|a| {
        a.mov(rbx, 0x30_0000_u64).unwrap();
        a.mov(eax, dword_ptr(rbx)).unwrap();
        a.mov(dword_ptr(rbx), 5).unwrap();
        a.mov(ecx, dword_ptr(rbx)).unwrap();
        a.mov(edx, dword_ptr(rbx + 0x1010)).unwrap();
        a.mov(dword_ptr(rbx + 0x1010), 6).unwrap();
        a.in_(eax, 0x60).unwrap();
        a.out(0x61, eax).unwrap();
        a.hlt().unwrap();
    });
    guest.memory.write_u32(DATA, 99).unwrap();
    guest.partition.map(0x30_0000..0x30_1000, DATA, Access::ReadOnly).unwrap();
    guest.partition.unmap(0x30_1000..0x30_2000).unwrap();
    let state = guest.run_to_halt();
    assert_eq!([state.gpr[1], state.gpr[2]], [99, 0x1010_1010]);
    let (five, six) = (5_u32.to_le_bytes().to_vec(), 6_u32.to_le_bytes().to_vec());
    assert_eq!(guest.ports.mmio, [(0x30_0000, five), (0x30_1010, six)]);
    assert_eq!(guest.ports.out, [(0x61, 0x61)]);
}

#[test]
fn a_fault_in_a_fault_ends_in_shutdown() {
    let mut guest = guest(|a| {
        a.ud2().unwrap();
    });
    let mut state = guest.vp.state().unwrap();
    state.idtr.limit = 0;
    guest.vp.set_state(&state).unwrap();
    assert_eq!(guest.run(10), Stop::TripleFault);
    assert_eq!(guest.vp.state().unwrap().activity, Activity::Shutdown);
}
