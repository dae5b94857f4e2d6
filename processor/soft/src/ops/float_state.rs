//! Whole x87, SSE and AVX state: FXSAVE, XSAVE, FNSAVE, FNSTENV and their loads, MXCSR, VZEROUPPER.

use crate::cpu::{Cpu, Mode, vector};
use crate::memory::{Address, Full};
use crate::op::{Fault, Flow, Handler, Op, fallible, handler};
use crate::ops::{self, Selection};
use bulkhead_native::{EnvFormat, ReservedBits};
use iced_x86::{Code, Mnemonic};

/// XMM registers that the mode can name.
fn registers(cpu: &Cpu) -> usize {
    if cpu.is_long64() { 16 } else { 8 }
}

/// Linear address of the op's operand of `size` bytes, aligned.
fn address(cpu: &mut Cpu, op: &Op, size: u64, alignment: u64, write: bool) -> Result<u64, Fault> {
    let offset = Full::offset(cpu, op);
    let linear = Full::linear(cpu, op.seg, offset, size, write)?;
    if linear & (alignment - 1) != 0 { Err(cpu.gp()) } else { Ok(linear) }
}

fn fxsave<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let linear = address(cpu, op, 512, 16, true)?;
    cpu.probe_write(linear, 512, op.seg)?;
    let mut image = [0; 512];
    // Parts that the instruction does not write stay.
    cpu.load_bytes(linear, &mut image, op.seg)?;
    let registers = registers(cpu);
    cpu.native.fxsave(&mut image, WIDE, registers);
    cpu.store_bytes(linear, &image, op.seg)
}

fn fxrstor<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let linear = address(cpu, op, 512, 16, false)?;
    let mut image = [0; 512];
    cpu.load_bytes(linear, &mut image, op.seg)?;
    let registers = registers(cpu);
    cpu.native.fxrstor(&image, WIDE, registers).map_err(|ReservedBits| cpu.gp())
}

fn xsave_mask(cpu: &Cpu) -> u64 {
    (cpu.regs[2] << 32 | cpu.regs[0] & 0xffff_ffff) & cpu.xcr0
}

fn check_xsave(cpu: &mut Cpu) -> Result<(), Fault> {
    if cpu.cr4 & 1 << 18 == 0 { Err(cpu.raise(vector::UD)) } else { Ok(()) }
}

fn xsave<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    check_xsave(cpu)?;
    let mask = xsave_mask(cpu);
    let size = if mask & 4 != 0 { 832 } else { 576 };
    let linear = address(cpu, op, size as u64, 64, true)?;
    cpu.probe_write(linear, size as u32, op.seg)?;
    let mut image = [0; 832];
    cpu.load_bytes(linear, &mut image[..size], op.seg)?;
    let registers = registers(cpu);
    cpu.native.xsave(&mut image, mask, WIDE, registers);
    cpu.store_bytes(linear, &image[..size], op.seg)
}

fn xrstor<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    check_xsave(cpu)?;
    let mask = xsave_mask(cpu);
    let linear = address(cpu, op, 576, 64, false)?;
    let mut image = [0; 832];
    cpu.load_bytes(linear, &mut image[..576], op.seg)?;
    if mask & 4 != 0 && image[512] & 4 != 0 {
        let linear = address(cpu, op, 832, 64, false)?;
        cpu.load_bytes(linear, &mut image, op.seg)?;
    }
    let registers = registers(cpu);
    let xcr0 = cpu.xcr0;
    cpu.native.xrstor(&image, mask, xcr0, WIDE, registers).map_err(|ReservedBits| cpu.gp())
}

fn format<const WIDE: bool>(cpu: &Cpu) -> EnvFormat {
    EnvFormat { protected: cpu.mode.has(Mode::PROTECTED), wide: WIDE }
}

fn store_environment<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let size = if WIDE { 28 } else { 14 };
    let linear = address(cpu, op, size, 1, true)?;
    cpu.probe_write(linear, size as u32, op.seg)?;
    let (bytes, len) = cpu.native.fnstenv(format::<WIDE>(cpu));
    cpu.store_bytes(linear, &bytes[..len], op.seg)
}

/// FLDENV and FRSTOR wait for exceptions of the state that they replace.
fn wait(cpu: &mut Cpu) -> Result<(), Fault> {
    if cpu.native.x87_exception_pending() { Err(cpu.raise(vector::MF)) } else { Ok(()) }
}

fn load_environment<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    wait(cpu)?;
    let size = if WIDE { 28 } else { 14 };
    let linear = address(cpu, op, size, 1, false)?;
    let mut bytes = [0; 28];
    let bytes = &mut bytes[..size as usize];
    cpu.load_bytes(linear, bytes, op.seg)?;
    let format = format::<WIDE>(cpu);
    cpu.native.fldenv(bytes, format);
    Ok(())
}

fn save_x87<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let size = if WIDE { 108 } else { 94 };
    let linear = address(cpu, op, size, 1, true)?;
    cpu.probe_write(linear, size as u32, op.seg)?;
    let (bytes, len) = cpu.native.fnsave(format::<WIDE>(cpu));
    cpu.store_bytes(linear, &bytes[..len], op.seg)
}

fn restore_x87<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    wait(cpu)?;
    let size = if WIDE { 108 } else { 94 };
    let linear = address(cpu, op, size, 1, false)?;
    let mut bytes = [0; 108];
    let bytes = &mut bytes[..size as usize];
    cpu.load_bytes(linear, bytes, op.seg)?;
    let format = format::<WIDE>(cpu);
    cpu.native.frstor(bytes, format);
    Ok(())
}

fn initialize(cpu: &mut Cpu, _: &Op) -> Flow {
    cpu.native.fninit();
    Flow::Next
}

fn load_mxcsr(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = cpu.read::<u32, Full>(op)?;
    cpu.native.set_mxcsr(value).map_err(|ReservedBits| cpu.gp())
}

fn store_mxcsr(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = cpu.native.mxcsr();
    cpu.write::<u32, Full>(op, value)
}

fn zero_upper(cpu: &mut Cpu, _: &Op) -> Flow {
    let registers = registers(cpu);
    cpu.native.zero_upper(registers);
    Flow::Next
}

fn zero_all(cpu: &mut Cpu, _: &Op) -> Flow {
    let registers = registers(cpu);
    cpu.native.zero_all(registers);
    Flow::Next
}

/// Before forms with a leading WAIT: a pending x87 exception is reported first.
fn with_wait(cpu: &mut Cpu) -> Result<(), Fault> {
    if cpu.native.x87_exception_pending() { Err(cpu.raise(vector::MF)) } else { Ok(()) }
}

/// `waiting!(function)`: the handler of the WAIT form.
macro_rules! waiting {
    ($name:ident, $plain:ident) => {
        fn $name<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
            with_wait(cpu)?;
            $plain::<WIDE>(cpu, op)
        }
    };
}
waiting!(wait_store_environment, store_environment);
waiting!(wait_save_x87, save_x87);

fn wait_initialize(cpu: &mut Cpu, _: &Op) -> Result<(), Fault> {
    with_wait(cpu)?;
    cpu.native.fninit();
    Ok(())
}

/// The group's handlers.
pub(crate) fn select(s: &Selection, _: &mut Op) -> Option<Handler> {
    let found = match s.instruction.code() {
        Code::Fxsave_m512byte => fallible(fxsave::<false>),
        Code::Fxsave64_m512byte => fallible(fxsave::<true>),
        Code::Fxrstor_m512byte => fallible(fxrstor::<false>),
        Code::Fxrstor64_m512byte => fallible(fxrstor::<true>),
        Code::Xsave_mem => fallible(xsave::<false>),
        Code::Xsave64_mem => fallible(xsave::<true>),
        Code::Xrstor_mem => fallible(xrstor::<false>),
        Code::Xrstor64_mem => fallible(xrstor::<true>),
        Code::Fnstenv_m14byte => fallible(store_environment::<false>),
        Code::Fnstenv_m28byte => fallible(store_environment::<true>),
        Code::Fstenv_m14byte => fallible(wait_store_environment::<false>),
        Code::Fstenv_m28byte => fallible(wait_store_environment::<true>),
        Code::Fldenv_m14byte => fallible(load_environment::<false>),
        Code::Fldenv_m28byte => fallible(load_environment::<true>),
        Code::Fnsave_m94byte => fallible(save_x87::<false>),
        Code::Fnsave_m108byte => fallible(save_x87::<true>),
        Code::Fsave_m94byte => fallible(wait_save_x87::<false>),
        Code::Fsave_m108byte => fallible(wait_save_x87::<true>),
        Code::Frstor_m94byte => fallible(restore_x87::<false>),
        Code::Frstor_m108byte => fallible(restore_x87::<true>),
        Code::Fninit => handler(initialize),
        Code::Finit => fallible(wait_initialize),
        Code::Ldmxcsr_m32 | Code::VEX_Vldmxcsr_m32 => fallible(load_mxcsr),
        Code::Stmxcsr_m32 | Code::VEX_Vstmxcsr_m32 => fallible(store_mxcsr),
        Code::VEX_Vzeroupper => handler(zero_upper),
        Code::VEX_Vzeroall => handler(zero_all),
        _ => return None,
    };
    Some(blocked(s).unwrap_or(found))
}

/// What CR0, CR4 and XCR0 have against it.
fn blocked(s: &Selection) -> Option<Handler> {
    let mode = s.mode;
    let task_switched = mode.has(Mode::TASK_SWITCHED);
    let emulation = mode.has(Mode::EMULATION);
    match s.instruction.mnemonic() {
        Mnemonic::Ldmxcsr | Mnemonic::Stmxcsr if emulation || !mode.has(Mode::SSE) => Some(ops::undefined()),
        Mnemonic::Vldmxcsr | Mnemonic::Vstmxcsr | Mnemonic::Vzeroupper | Mnemonic::Vzeroall
            if !mode.has(Mode::AVX | Mode::PROTECTED) =>
        {
            Some(ops::undefined())
        }
        Mnemonic::Ldmxcsr
        | Mnemonic::Stmxcsr
        | Mnemonic::Vldmxcsr
        | Mnemonic::Vstmxcsr
        | Mnemonic::Vzeroupper
        | Mnemonic::Vzeroall
        | Mnemonic::Xsave
        | Mnemonic::Xsave64
        | Mnemonic::Xrstor
        | Mnemonic::Xrstor64 => task_switched.then(ops::unavailable),
        _ => (task_switched || emulation).then(ops::unavailable),
    }
}
