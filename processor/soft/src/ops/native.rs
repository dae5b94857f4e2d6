//! SIMD, x87, MMX, crypto and BMI instructions: executed by the host through native stubs.

use crate::cpu::{Cpu, Mode, vector};
use crate::memory::{Address, Full};
use crate::op::{Fault, Flow, Handler, Op, handler};
use crate::ops::{self, Selection};
use bulkhead_native::{Gather, Lowered, Masked, MemoryOperand, NativeState, STATUS_FLAGS, Slot, Stub, StubEntry};
use iced_x86::{CpuidFeature, EncodingKind, Mnemonic};
use std::mem::offset_of;

/// The stubs of a partition.
pub(crate) use bulkhead_native::Stubs as NativeTable;

/// Where a register operand lies in `Cpu`.
fn place(slot: Slot) -> u16 {
    let offset = match slot {
        Slot::None => 0,
        Slot::Gpr { register, byte } => offset_of!(Cpu, regs) + usize::from(register) * 8 + usize::from(byte),
        Slot::Vector(number) => offset_of!(Cpu, native) + offset_of!(NativeState, vector) + usize::from(number) * 32,
    };
    offset as u16
}

const _: () = assert!(offset_of!(Cpu, native) + 1024 < u16::MAX as usize && offset_of!(Cpu, regs) == 0);

/// Packs a stub into an op: `imm` = places of three operands and half of the entry's offset; `reg`, `rm` = the other
/// half; `extra` = what the memory operand is, or the place of the fourth operand.
fn pack(stub: &Stub, op: &mut Op, bytes: &[u8]) {
    let [a, b, c, d] = stub.registers.map(place);
    // x87 instructions have no third operand: its place holds the opcode.
    let c = if stub.x87_pointers { bulkhead_native::x87_opcode(bytes) } else { c };
    let [low, high] = [stub.offset as u16, (stub.offset >> 16) as u16];
    op.imm = u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(low) << 48;
    [op.reg, op.rm] = high.to_le_bytes();
    op.extra = stub.memory.map_or(d, |memory| describe(&memory) | if stub.waits { WAITS } else { 0 });
}

/// In [`Op::extra`] of a stub with a memory operand: the instruction waits for x87 exceptions.
const WAITS: u16 = 1 << 15;

fn describe(memory: &MemoryOperand) -> u16 {
    u16::from(memory.size)
        | u16::from(memory.read) << 8
        | u16::from(memory.write) << 9
        | (memory.alignment.max(1).trailing_zeros() as u16) << 10
}

fn entry(cpu: &Cpu, op: &Op) -> StubEntry {
    let offset = (op.imm >> 48) as usize | usize::from(u16::from_le_bytes([op.reg, op.rm])) << 16;
    let address = cpu.partition.natives.base().wrapping_add(offset);
    // SAFETY: `base + offset` is the entry that `Stubs::get` returned; stubs live as long as the table.
    unsafe { std::mem::transmute::<*const u8, StubEntry>(address) }
}

/// Calls the stub. `memory` is null, or points to the memory operand.
#[inline(always)]
fn call<const X87: bool, const FLAGS: bool>(cpu: &mut Cpu, op: &Op, memory: *mut u8) -> u32 {
    if X87 {
        cpu.native.use_x87();
    }
    if FLAGS {
        cpu.native.flags = cpu.flags.get() as u32;
    }
    let entry = entry(cpu, op);
    let base = (&raw mut *cpu).cast::<u8>();
    let [a, b, c] = [op.imm as u16, (op.imm >> 16) as u16, (op.imm >> 32) as u16].map(usize::from);
    let c = if X87 { 0 } else { c };
    // SAFETY: the places are inside `Cpu` (checked above by construction in `place`); the native state was entered by
    // `run` on this thread; `memory` is null where unused, else it has as many bytes as the operand.
    let result = unsafe {
        entry(&raw mut (*base.cast::<Cpu>()).native, base.cast(), base.add(a), base.add(b), base.add(c), memory)
    };
    if FLAGS && result == 0 {
        let flags = u64::from(cpu.native.flags & STATUS_FLAGS);
        cpu.flags.set(flags);
    }
    result
}

/// The exception that a stub reports.
#[cold]
fn failed(cpu: &mut Cpu, result: u32) -> Flow {
    const UNMASKED_SIMD: u64 = 1 << 10;
    match result as u8 {
        vector::MF => cpu.raise(vector::MF),
        vector::XM if cpu.cr4 & UNMASKED_SIMD != 0 => cpu.raise(vector::XM),
        vector::XM | vector::UD => cpu.raise(vector::UD),
        // The host refused an access to memory that we had checked: the file behind it was cut off.
        _ => cpu.gp(),
    };
    Flow::Fault
}

#[inline(always)]
fn result(cpu: &mut Cpu, result: u32) -> Flow {
    if result == 0 { Flow::Next } else { failed(cpu, result) }
}

fn set_pointers(cpu: &mut Cpu, op: &Op) {
    cpu.native.pointers.fip = cpu.rip_of(op);
    cpu.native.pointers.fcs = cpu.segments[1].selector;
    cpu.native.pointers.fop = (op.imm >> 32) as u16;
}

#[inline(always)]
fn registers<const X87: bool, const FLAGS: bool, const POINTERS: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    if POINTERS {
        set_pointers(cpu, op);
    }
    let fourth = (&raw mut *cpu).cast::<u8>().wrapping_add(usize::from(op.extra));
    let code = call::<X87, FLAGS>(cpu, op, fourth);
    result(cpu, code)
}

#[inline(always)]
fn memory<A: Address, const X87: bool, const FLAGS: bool, const POINTERS: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let size = u64::from(op.extra & 0xff);
    let write = op.extra & 1 << 9 != 0;
    let offset = A::offset(cpu, op);
    let Ok(linear) = A::linear(cpu, op.seg, offset, size, write) else {
        return operand_fault(cpu, op, offset);
    };
    if linear & alignment_mask(op) != 0 {
        return operand_fault(cpu, op, offset);
    }
    if POINTERS {
        set_pointers(cpu, op);
        cpu.native.pointers.fdp = offset;
        cpu.native.pointers.fds = cpu.segments[usize::from(op.seg & 7)].selector;
    }
    let code = match cpu.host_pointer(linear, size, write) {
        Some(pointer) => call::<X87, FLAGS>(cpu, op, pointer),
        None => match through_bounce::<X87, FLAGS>(cpu, op, linear) {
            Ok(code) => code,
            Err(Fault) => return operand_fault(cpu, op, offset),
        },
    };
    result(cpu, code)
}

/// What comes before a fault of the memory operand at `offset`: an x87 exception that pends, then misalignment.
#[cold]
fn operand_fault(cpu: &mut Cpu, op: &Op, offset: u64) -> Flow {
    let linear = cpu.segments[usize::from(op.seg & 7)].base.wrapping_add(offset);
    if op.extra & WAITS != 0 && cpu.native.x87_exception_pending() {
        cpu.raise(vector::MF);
    } else if linear & alignment_mask(op) != 0 {
        cpu.gp();
    }
    Flow::Fault
}

/// The bits of a linear address that must be zero.
#[inline(always)]
fn alignment_mask(op: &Op) -> u64 {
    (1 << (op.extra >> 10 & 7)) - 1
}

/// Operands that cross a page, lie on a device, or need the slow path otherwise.
#[cold]
fn through_bounce<const X87: bool, const FLAGS: bool>(cpu: &mut Cpu, op: &Op, linear: u64) -> Result<u32, Fault> {
    let size = usize::from(op.extra & 0xff);
    let (read, write) = (op.extra & 1 << 8 != 0, op.extra & 1 << 9 != 0);
    let mut bytes = [0; 64];
    if write {
        cpu.probe_write(linear, size as u32, op.seg)?;
    }
    // An x87 store under an unmasked exception writes nothing: what is stored back must be what was there.
    if read || write {
        cpu.load_bytes(linear, &mut bytes[..size], op.seg)?;
    }
    cpu.native.bounce = bytes;
    let pointer = (&raw mut cpu.native.bounce).cast();
    let code = call::<X87, FLAGS>(cpu, op, pointer);
    if write && code == 0 {
        let bytes = cpu.native.bounce;
        cpu.store_bytes(linear, &bytes[..size], op.seg)?;
    }
    Ok(code)
}

/// In [`Op::extra`] of a masked move, besides the bits of [`Masked`]: it stores.
const MASKED_STORE: u16 = 1 << 15;

/// VMASKMOV, VPMASKMOV, MASKMOVDQU, MASKMOVQ: only selected elements are accessed.
fn masked<const X87: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    match masked_inner::<X87>(cpu, op) {
        Ok(code) => result(cpu, code),
        Err(Fault) => Flow::Fault,
    }
}

fn masked_inner<const X87: bool>(cpu: &mut Cpu, op: &Op) -> Result<u32, Fault> {
    let (masked, write) = (Masked::from_bits(op.extra), op.extra & MASKED_STORE != 0);
    if X87 {
        cpu.native.use_x87();
    }
    let active = masked.active(&mut cpu.native);
    let element = u64::from(masked.element);
    let offset = Full::offset(cpu, op);
    let mut bytes = [0; 64];
    let elements = (0..u64::from(masked.count)).filter(|index| active >> index & 1 != 0);
    for index in elements.clone() {
        let linear = Full::linear(cpu, op.seg, offset.wrapping_add(index * element), element, write)?;
        let at = (index * element) as usize;
        if write {
            cpu.probe_write(linear, element as u32, op.seg)?;
        } else {
            cpu.load_bytes(linear, &mut bytes[at..at + element as usize], op.seg)?;
        }
    }
    cpu.native.bounce = bytes;
    let pointer = (&raw mut cpu.native.bounce).cast();
    let code = call::<X87, false>(cpu, op, pointer);
    if code == 0 && write {
        let bytes = cpu.native.bounce;
        for index in elements {
            let linear = Full::linear(cpu, op.seg, offset.wrapping_add(index * element), element, true)?;
            let at = (index * element) as usize;
            cpu.store_bytes(linear, &bytes[at..at + element as usize], op.seg)?;
        }
    }
    Ok(code)
}

/// VGATHERxxx, VPGATHERxx. The decoder leaves the index out of the op's address.
fn gather(cpu: &mut Cpu, op: &Op) -> Flow {
    let gather = Gather::from_bits(op.imm as u32);
    let mask = u64::MAX >> (64 - 8 * u32::from(op.address_size & 15));
    let offset = Full::offset(cpu, op);
    // The state is taken out so that loads may use the rest of the processor.
    let mut state = cpu.native_vectors();
    let size = u64::from(gather.element);
    let result = gather.run(&mut state, |index| {
        let offset = offset.wrapping_add(index as u64) & mask;
        let linear = Full::linear(cpu, op.seg, offset, size, false)?;
        if size == 4 {
            cpu.load::<u32, Full>(linear, op.seg).map(u64::from)
        } else {
            cpu.load::<u64, Full>(linear, op.seg)
        }
    });
    cpu.native.vector = state.vector;
    match result {
        Ok(()) => Flow::Next,
        Err(Fault) => Flow::Fault,
    }
}

impl Cpu {
    /// A state with a copy of the vector registers.
    fn native_vectors(&self) -> NativeState {
        let mut state = NativeState::new();
        state.vector = self.native.vector;
        state
    }

    /// Host address of `size` bytes in one page with a TLB hit.
    #[inline(always)]
    pub(crate) fn host_pointer(&self, linear: u64, size: u64, write: bool) -> Option<*mut u8> {
        let entry = self.entry(linear);
        let tag = if write { entry.write } else { entry.read };
        let hit = linear.wrapping_add(size - 1) & !0xfff == tag;
        hit.then(|| linear.wrapping_add(entry.addend) as *mut u8)
    }
}

/// Whether CR0, CR4 and XCR0 allow the instruction; else the handler that raises what they say.
fn availability(s: &Selection, lowered: &Lowered) -> Result<(), Handler> {
    let instruction = s.instruction;
    let has = |features: &[CpuidFeature]| instruction.cpuid_features().iter().any(|feature| features.contains(feature));
    let (x87, registers) = match lowered {
        Lowered::Stub(stub) => (stub.uses_x87, stub.registers),
        Lowered::Gather(_) => (false, [Slot::Vector(0); 4]),
    };
    let vectors = registers.iter().any(|slot| matches!(slot, Slot::Vector(_)));
    let vex = instruction.encoding() == EncodingKind::VEX;
    if vex && !s.mode.has(Mode::PROTECTED) {
        return Err(ops::undefined());
    }
    let mmx = x87 && has(&[CpuidFeature::MMX, CpuidFeature::SSE, CpuidFeature::SSE2, CpuidFeature::SSSE3]);
    if x87 && !mmx {
        let blocked = if instruction.mnemonic() == Mnemonic::Wait {
            s.mode.has(Mode::TASK_SWITCHED | Mode::MONITOR)
        } else {
            s.mode.has(Mode::TASK_SWITCHED) || s.mode.has(Mode::EMULATION)
        };
        return if blocked { Err(ops::unavailable()) } else { Ok(()) };
    }
    if !vectors && !mmx {
        return Ok(());
    }
    let allowed = if vex { s.mode.has(Mode::AVX) } else { !s.mode.has(Mode::EMULATION) };
    let needs_sse = vectors && !vex;
    if !allowed || needs_sse && !s.mode.has(Mode::SSE) {
        return Err(ops::undefined());
    }
    if s.mode.has(Mode::TASK_SWITCHED) { Err(ops::unavailable()) } else { Ok(()) }
}

/// `by_flags!(stub, X, F, P => expression)`: the three properties as constants.
macro_rules! by_flags {
    ($stub:expr, $x:ident, $f:ident, $p:ident => $body:expr) => {
        match ($stub.uses_x87, $stub.reads_flags || $stub.writes_flags, $stub.x87_pointers) {
            (false, false, _) => by_flags!(@ false, false, false, $x, $f, $p, $body),
            (false, true, _) => by_flags!(@ false, true, false, $x, $f, $p, $body),
            (true, false, false) => by_flags!(@ true, false, false, $x, $f, $p, $body),
            (true, false, true) => by_flags!(@ true, false, true, $x, $f, $p, $body),
            (true, true, false) => by_flags!(@ true, true, false, $x, $f, $p, $body),
            (true, true, true) => by_flags!(@ true, true, true, $x, $f, $p, $body),
        }
    };
    (@ $vx:literal, $vf:literal, $vp:literal, $x:ident, $f:ident, $p:ident, $body:expr) => {{
        const $x: bool = $vx;
        const $f: bool = $vf;
        const $p: bool = $vp;
        $body
    }};
}

/// The group's handlers.
pub(crate) fn select(s: &Selection, op: &mut Op) -> Option<Handler> {
    let lowered = match s.stubs.get(s.instruction) {
        Ok(lowered) => lowered,
        Err(bulkhead_native::NotNative::Undefined(_)) => return Some(ops::undefined()),
        Err(_) => return None,
    };
    if let Err(handler) = availability(s, &lowered) {
        return Some(handler);
    }
    let stub = match lowered {
        Lowered::Gather(operands) => {
            op.imm = operands.to_bits().into();
            op.index = Cpu::ZERO;
            return Some(handler(gather));
        }
        Lowered::Stub(stub) => stub,
    };
    pack(&stub, op, s.bytes);
    let Some(operand) = stub.memory else {
        return Some(by_flags!(stub, X, F, P => handler(registers::<X, F, P>)));
    };
    if let Some(operands) = operand.masked {
        op.extra = operands.to_bits() | if operand.write { MASKED_STORE } else { 0 };
        if matches!(s.instruction.mnemonic(), Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu) {
            // The implicit operand at [rDI].
            op.base = 7;
        }
        return Some(if stub.uses_x87 { handler(masked::<true>) } else { handler(masked::<false>) });
    }
    Some(by_address!(s.address, A => by_flags!(stub, X, F, P => handler(memory::<A, X, F, P>))))
}
