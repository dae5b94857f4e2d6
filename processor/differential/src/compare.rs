//! What must be equal after a case.

use iced_x86::{Code, CpuidFeature, Instruction, Mnemonic};

use crate::case::layout::DATA;
use crate::{Case, Mode, Outcome};

/// Status flags, DF and the system flags that programs can change; RF is the debugger's business.
const FLAGS: u64 = 0x0024_4dd5 | 0x0040_0000;

/// Lowest address of the kernel's half, where Linux hides which pages exist.
const KERNEL: u64 = 1 << 47;
const PRESENT: u32 = 1;

/// State on which processors differ when an instruction faults half-way.
#[derive(Default)]
struct Unsettled {
    /// MMX: some processors have begun the transition to MMX state, some have not.
    x87: bool,
    /// A gather's destination and mask: what lies above the elements is cleared at the start or at the end. The last
    /// number counts the quadwords that belong to elements.
    gather: Option<(usize, usize, usize)>,
    /// Operands accessed in parts, in any order: any of their bytes may be the one that faults, or the segment limit.
    parts: bool,
    /// Stores in parts, of which the first may have been made.
    memory: bool,
}

impl Unsettled {
    fn after(case: &Case, host: &Outcome) -> Self {
        let faulting = case.instructions.iter().find(|i| i.ip() == host.registers.rip);
        let Some(instruction) = faulting else { return Self::default() };
        let mmx = |i| instruction.op_register(i).is_mm();
        let x87 = instruction.cpuid_features().contains(&CpuidFeature::MMX) || (0..4).any(mmx);
        use Mnemonic as M;
        let mnemonic = instruction.mnemonic();
        let masked = matches!(mnemonic, M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq);
        let long_store = matches!(instruction.code(), Code::Fstp_m80fp | Code::Fbstp_m80bcd);
        let image = matches!(mnemonic, M::Fldenv | M::Frstor | M::Fxrstor | M::Fxrstor64);
        Self {
            x87,
            gather: instruction.is_vsib().then(|| gather(instruction)),
            parts: image || masked || long_store || matches!(instruction.code(), Code::Fld_m80fp | Code::Fbld_m80bcd),
            memory: long_store,
        }
    }
}

/// See [`Unsettled::gather`].
fn gather(instruction: &Instruction) -> (usize, usize, usize) {
    let element = instruction.memory_size().size();
    let index = if instruction.is_vsib64() { 8 } else { 4 };
    let count = (instruction.op0_register().size() / element).min(instruction.memory_index().size() / index);
    (instruction.op0_register().number(), instruction.op2_register().number(), count * element / 8)
}

/// The flags that the architecture leaves undefined where the case ended.
fn undefined_flags(case: &Case, host: &Outcome) -> u64 {
    // After the INT3 in front of the code, RIP is the first instruction's.
    let faulted = host.exception.vector != 3;
    let faulting = case.instructions.iter().position(|i| faulted && i.ip() == host.registers.rip);
    faulting.and_then(|index| case.undefined_before.get(index)).copied().unwrap_or(case.undefined_flags)
}

/// Every difference between what the host did and what the other executor did; empty if all is well.
pub fn differences(case: &Case, host: &Outcome, other: &Outcome) -> Vec<String> {
    let unsettled = Unsettled::after(case, host);
    let mut found = Vec::new();
    let mut check = |name: &dyn Fn() -> String, host: u64, other: u64| {
        if host != other {
            found.push(format!("{}: host {host:#x}, here {other:#x}", name()));
        }
    };
    let width = if case.mode == Mode::Long { u64::MAX } else { u64::from(u32::MAX) };
    let (a, b) = (&host.exception, &other.exception);
    let any_fault = |vector: u8| if unsettled.parts && matches!(vector, 12 | 13) { 14 } else { vector.into() };
    check(&|| "exception vector".into(), any_fault(a.vector), any_fault(b.vector));
    if a.vector == b.vector {
        let hidden = if a.address >= KERNEL { PRESENT } else { 0 };
        check(&|| "error code".into(), (a.error & !hidden).into(), (b.error & !hidden).into());
        let settled = if unsettled.parts { 0 } else { !0 };
        check(&|| "fault address".into(), a.address & settled, b.address & settled);
    }
    let (a, b) = (&host.registers, &other.registers);
    check(&|| "rip".into(), a.rip & width, b.rip & width);
    for index in 0..case.mode.registers() {
        check(&|| format!("gpr {index}"), a.gpr[index] & width, b.gpr[index] & width);
    }
    let flags = FLAGS & !undefined_flags(case, host);
    check(&|| "flags".into(), a.rflags & flags, b.rflags & flags);
    for (index, (a, b)) in a.vector.iter().zip(&b.vector).enumerate().take(case.mode.registers()) {
        let lanes = unsettled.gather.filter(|&(a, b, _)| a == index || b == index).map_or(4, |gather| gather.2);
        for (lane, (a, b)) in a.chunks_exact(8).zip(b.chunks_exact(8)).enumerate().take(lanes) {
            check(&|| format!("ymm{index} quadword {lane}"), word(a), word(b));
        }
    }
    check(&|| "mxcsr".into(), a.mxcsr.into(), b.mxcsr.into());
    check(&|| "fcw".into(), a.fcw.into(), b.fcw.into());
    if !unsettled.x87 {
        for (index, (a, b)) in a.st.iter().zip(&b.st).enumerate() {
            check(&|| format!("st({index}) mantissa"), word(&a[..8]), word(&b[..8]));
            check(&|| format!("st({index}) exponent"), word(&a[8..]), word(&b[8..]));
        }
        check(&|| "fsw".into(), a.fsw.into(), b.fsw.into());
        check(&|| "ftw".into(), a.ftw.into(), b.ftw.into());
    }
    if host.memory != other.memory && !unsettled.memory {
        let lanes = host.memory.chunks_exact(8).zip(other.memory.chunks_exact(8)).enumerate();
        for (index, (a, b)) in lanes.filter(|(_, (a, b))| a != b).take(4) {
            check(&|| format!("memory at {:#x}", DATA + 8 * index as u64), word(a), word(b));
        }
    }
    found
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}
