//! Ports: IN, OUT, INS, OUTS, and who may use them.

use crate::cpu::{Cpu, Mode, rflags};
use crate::int::Int;
use crate::memory::{Address, Full};
use crate::op::{Fault, Flow, Handler, Op, handler};
use crate::ops::Selection;
use bulkhead_engine::{HYPERCALL_PORT, HypercallRegisters};
use iced_x86::{Code, Instruction, Mnemonic};

const ES: u8 = 0;

impl Cpu {
    /// Checks IOPL and, beyond it, the TSS's permission bitmap.
    fn check_port(&mut self, port: u16, size: u64) -> Result<(), Fault> {
        let iopl = (self.system_flags >> 12 & 3) as u8;
        let v86 = self.system_flags & rflags::VM != 0;
        if self.cr0 & 1 == 0 || self.cpl <= iopl && !v86 {
            return Ok(());
        }
        // Only 32- and 64-bit TSSs have a bitmap.
        if self.tr.attributes & 0x88 != 0x88 || self.tr.limit < 0x67 {
            return Err(self.gp());
        }
        let bitmap = self.load_system(self.tr.base.wrapping_add(0x66), 2)?;
        let at = bitmap + u64::from(port >> 3);
        if at + 1 > u64::from(self.tr.limit) {
            return Err(self.gp());
        }
        let bits = self.load_system(self.tr.base.wrapping_add(at), 2)? >> (port & 7);
        if bits & ((1 << size) - 1) != 0 { Err(self.gp()) } else { Ok(()) }
    }

    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        self.events.ports += 1;
        self.exit(|exits| exits.port_in(port, size)).unwrap_or(u32::MAX)
    }

    fn port_out(&mut self, port: u16, size: u8, value: u32) {
        self.events.ports += 1;
        self.exit(|exits| exits.port_out(port, size, value));
    }

    /// OUT to the hypercall port; `false` if this is no hypercall.
    fn hypercall(&mut self) -> bool {
        if self.cpl != 0 || self.cr0 & 1 == 0 || self.system_flags & rflags::VM != 0 {
            return false;
        }
        let long_mode = self.mode.has(Mode::LONG64);
        let [rax, rcx, rdx, rbx, _, _, rsi, rdi, r8] = std::array::from_fn(|register| self.regs[register]);
        let mut registers = HypercallRegisters { long_mode, rax, rbx, rcx, rdx, rsi, rdi, r8 };
        if self.exit(|exits| exits.hypercall(&mut registers)) != Some(true) {
            return false;
        }
        self.events.hypercalls += 1;
        let HypercallRegisters { rax, rbx, rcx, rdx, rsi, rdi, r8, .. } = registers;
        for (register, value) in [(0, rax), (1, rcx), (2, rdx), (3, rbx), (6, rsi), (7, rdi), (8, r8)] {
            self.regs[register] = value;
        }
        true
    }
}

fn port<const IMMEDIATE: bool>(cpu: &Cpu, op: &Op) -> u16 {
    if IMMEDIATE { op.imm as u16 & 0xff } else { cpu.regs[2] as u16 }
}

fn input<T: Int, const IMMEDIATE: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let port = port::<IMMEDIATE>(cpu, op);
    if cpu.check_port(port, T::SIZE).is_err() {
        return Flow::Fault;
    }
    let value = cpu.port_in(port, T::SIZE as u8);
    cpu.set_reg(0, T::from_u64(u64::from(value)));
    Flow::Sync
}

fn output<T: Int, const IMMEDIATE: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let port = port::<IMMEDIATE>(cpu, op);
    if cpu.check_port(port, T::SIZE).is_err() {
        return Flow::Fault;
    }
    if T::SIZE == 4 && port == u16::from(HYPERCALL_PORT) && cpu.hypercall() {
        return Flow::Sync;
    }
    let value = cpu.reg::<T>(0).to_u64() as u32;
    cpu.port_out(port, T::SIZE as u8, value);
    Flow::Sync
}

/// How many bytes a string instruction does at once.
const CHUNK: usize = 4096;

/// Registers of a string instruction: masked to the address size.
struct StringState {
    mask: u64,
    count: u64,
    backwards: bool,
    /// One item at a time: accesses are watched.
    single: bool,
}

impl StringState {
    fn new<const REP: bool>(cpu: &Cpu, op: &Op) -> Self {
        let mask = u64::MAX >> (64 - 8 * u32::from(op.address_size & 15));
        let count = if REP { cpu.regs[1] & mask } else { 1 };
        Self { mask, count, backwards: cpu.system_flags & rflags::DF != 0, single: cpu.slow_data }
    }

    /// Items that can be done at once at `offset`: up to the end of the page, upwards only.
    fn items<T: Int>(&self, linear: u64, offset: u64) -> u64 {
        let in_page = (4096 - (linear & 0xfff)) >> T::LOG;
        let left = self.mask - offset;
        let before_wrap = (left >> T::LOG).saturating_add(u64::from(left & (T::SIZE - 1) == T::SIZE - 1));
        if self.backwards || self.single {
            1
        } else {
            self.count.min(in_page).min(before_wrap).clamp(1, CHUNK as u64 >> T::LOG)
        }
    }

    /// Moves the index register and the counter on; what comes next.
    fn advance<T: Int, const REP: bool>(&self, cpu: &mut Cpu, register: usize, items: u64) -> Flow {
        let step = items.wrapping_mul(T::SIZE);
        let index = cpu.regs[register];
        let moved = if self.backwards { index.wrapping_sub(step) } else { index.wrapping_add(step) };
        cpu.regs[register] = merge(index, moved, self.mask);
        if REP {
            cpu.regs[1] = merge(cpu.regs[1], self.count - items, self.mask);
            if self.count > items {
                return Flow::Again;
            }
        }
        Flow::Sync
    }
}

/// A register of which the bits of `mask` change; 32-bit writes clear the upper half.
fn merge(old: u64, new: u64, mask: u64) -> u64 {
    if mask == 0xffff { old & !mask | new & mask } else { new & mask }
}

fn input_string<T: Int, const REP: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let port = cpu.regs[2] as u16;
    if cpu.check_port(port, T::SIZE).is_err() {
        return Flow::Fault;
    }
    let state = StringState::new::<REP>(cpu, op);
    if state.count == 0 {
        return Flow::Next;
    }
    let offset = cpu.regs[7] & state.mask;
    let Ok(linear) = Full::linear(cpu, ES, offset, T::SIZE, true) else { return Flow::Fault };
    let items = state.items::<T>(linear, offset);
    let bytes = items << T::LOG;
    let items = if Full::linear(cpu, ES, offset, bytes, true).is_ok() { items } else { 1 };
    let bytes = (items << T::LOG) as usize;
    // The device must not be read for a store that faults.
    if cpu.probe_write(linear, bytes as u32, ES).is_err() {
        return Flow::Fault;
    }
    let mut buffer = [0; CHUNK];
    let data = &mut buffer[..bytes];
    cpu.events.ports += 1;
    cpu.exit(|exits| exits.port_in_string(port, T::SIZE as u8, data));
    if cpu.store_bytes(linear, data, ES).is_err() {
        return Flow::Fault;
    }
    state.advance::<T, REP>(cpu, 7, items)
}

fn output_string<T: Int, const REP: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let port = cpu.regs[2] as u16;
    if cpu.check_port(port, T::SIZE).is_err() {
        return Flow::Fault;
    }
    let state = StringState::new::<REP>(cpu, op);
    if state.count == 0 {
        return Flow::Next;
    }
    let offset = cpu.regs[6] & state.mask;
    let Ok(linear) = Full::linear(cpu, op.seg, offset, T::SIZE, false) else { return Flow::Fault };
    let items = state.items::<T>(linear, offset);
    let items = if Full::linear(cpu, op.seg, offset, items << T::LOG, false).is_ok() { items } else { 1 };
    let mut buffer = [0; CHUNK];
    let data = &mut buffer[..(items << T::LOG) as usize];
    if cpu.load_bytes(linear, data, op.seg).is_err() {
        return Flow::Fault;
    }
    cpu.events.ports += 1;
    cpu.exit(|exits| exits.port_out_string(port, T::SIZE as u8, data));
    state.advance::<T, REP>(cpu, 6, items)
}

/// The group's handlers.
pub(crate) fn select(s: &Selection, _: &mut Op) -> Option<Handler> {
    let rep = s.instruction.has_rep_prefix() || s.instruction.has_repne_prefix();
    Some(match s.instruction.code() {
        Code::In_AL_imm8 => handler(input::<u8, true>),
        Code::In_AX_imm8 => handler(input::<u16, true>),
        Code::In_EAX_imm8 => handler(input::<u32, true>),
        Code::In_AL_DX => handler(input::<u8, false>),
        Code::In_AX_DX => handler(input::<u16, false>),
        Code::In_EAX_DX => handler(input::<u32, false>),
        Code::Out_imm8_AL => handler(output::<u8, true>),
        Code::Out_imm8_AX => handler(output::<u16, true>),
        Code::Out_imm8_EAX => handler(output::<u32, true>),
        Code::Out_DX_AL => handler(output::<u8, false>),
        Code::Out_DX_AX => handler(output::<u16, false>),
        Code::Out_DX_EAX => handler(output::<u32, false>),
        Code::Insb_m8_DX if rep => handler(input_string::<u8, true>),
        Code::Insb_m8_DX => handler(input_string::<u8, false>),
        Code::Insw_m16_DX if rep => handler(input_string::<u16, true>),
        Code::Insw_m16_DX => handler(input_string::<u16, false>),
        Code::Insd_m32_DX if rep => handler(input_string::<u32, true>),
        Code::Insd_m32_DX => handler(input_string::<u32, false>),
        Code::Outsb_DX_m8 if rep => handler(output_string::<u8, true>),
        Code::Outsb_DX_m8 => handler(output_string::<u8, false>),
        Code::Outsw_DX_m16 if rep => handler(output_string::<u16, true>),
        Code::Outsw_DX_m16 => handler(output_string::<u16, false>),
        Code::Outsd_DX_m32 if rep => handler(output_string::<u32, true>),
        Code::Outsd_DX_m32 => handler(output_string::<u32, false>),
        _ => return None,
    })
}

/// Whether the block must end behind the instruction: devices change memory maps and interrupt lines.
pub(crate) fn ends_block(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::In
            | Mnemonic::Out
            | Mnemonic::Insb
            | Mnemonic::Insw
            | Mnemonic::Insd
            | Mnemonic::Outsb
            | Mnemonic::Outsw
            | Mnemonic::Outsd
    )
}
