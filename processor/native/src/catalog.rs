//! Which instructions are executed natively.

use iced_x86::{Code, CpuidFeature, EncodingKind, Instruction, OpCodeOperandKind};

use crate::{Features, NotNative};

/// The features whose instructions are ours, apart from [`is_state_instruction`].
const FEATURES: &[CpuidFeature] = &[
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::MMX,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::SSE3,
    CpuidFeature::SSSE3,
    CpuidFeature::SSE4_1,
    CpuidFeature::SSE4_2,
    CpuidFeature::AES,
    CpuidFeature::PCLMULQDQ,
    CpuidFeature::SHA,
    CpuidFeature::AVX,
    CpuidFeature::AVX2,
    CpuidFeature::FMA,
    CpuidFeature::F16C,
    CpuidFeature::BMI1,
    CpuidFeature::BMI2,
    CpuidFeature::ADX,
    CpuidFeature::LZCNT,
    CpuidFeature::POPCNT,
    CpuidFeature::MOVBE,
    CpuidFeature::RDRAND,
    CpuidFeature::RDSEED,
];

/// The features that `code` needs, all of them.
pub fn required_features(code: Code) -> &'static [CpuidFeature] {
    code.cpuid_features()
}

/// Whether this crate lowers the instruction and the host can execute it.
pub fn supports(instruction: &Instruction) -> bool {
    check(instruction).is_ok()
}

/// The last opcode of a non-control x87 instruction as FOP holds it: three bits of the escape byte and the ModRM byte
/// (SDM vol. 1, 8.1.9). `bytes` is the instruction in guest memory, prefixes included.
pub fn x87_opcode(bytes: &[u8]) -> u16 {
    let mut bytes = bytes.iter().skip_while(|&&byte| !(0xd8..=0xdf).contains(&byte));
    match (bytes.next(), bytes.next()) {
        (Some(&escape), Some(&modrm)) => u16::from(escape & 7) << 8 | u16::from(modrm),
        _ => 0,
    }
}

/// Why an instruction has no stub, if so.
pub(crate) fn check(instruction: &Instruction) -> Result<(), NotNative> {
    let code = instruction.code();
    if !lowers(code) {
        return Err(NotNative::OutOfScope(code));
    }
    let missing = required_features(code).iter().find(|&&feature| !Features::host().has(feature));
    if let Some(&feature) = missing {
        return Err(NotNative::HostLacks { code, feature });
    }
    Ok(())
}

/// Whether this crate lowers the form, on a host that has the features.
pub fn lowers(code: Code) -> bool {
    let info = code.op_code();
    let features = required_features(code);
    // FCMOVcc asks for CMOV besides the FPU, and VEX-encoded AES for AVX: one feature of ours, and no foreign one.
    let ours = features.iter().any(|feature| FEATURES.contains(feature));
    let known = features.iter().all(|feature| FEATURES.contains(feature) || *feature == CpuidFeature::CMOV);
    let encoding = matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX);
    // WAIT is as old as the 8086, and so are its features.
    if code == Code::Wait {
        return true;
    }
    encoding && ours && known && info.mode64() && !info.fwait() && !is_state_instruction(code)
}

/// Instructions that the engine handles itself: hints, MXCSR, and the memory images of [`crate::NativeState`].
fn is_state_instruction(code: Code) -> bool {
    matches!(
        code,
        Code::Prefetchnta_m8
            | Code::Prefetcht0_m8
            | Code::Prefetcht1_m8
            | Code::Prefetcht2_m8
            | Code::Ldmxcsr_m32
            | Code::Stmxcsr_m32
            | Code::VEX_Vldmxcsr_m32
            | Code::VEX_Vstmxcsr_m32
            | Code::VEX_Vzeroupper
            | Code::VEX_Vzeroall
            | Code::Fninit
            | Code::Fnstenv_m14byte
            | Code::Fnstenv_m28byte
            | Code::Fldenv_m14byte
            | Code::Fldenv_m28byte
            | Code::Fnsave_m94byte
            | Code::Fnsave_m108byte
            | Code::Frstor_m94byte
            | Code::Frstor_m108byte
    )
}

/// x87 instructions that leave the last instruction, operand and opcode pointers alone (SDM vol. 1, 8.1.8).
pub(crate) fn is_x87_control(code: Code) -> bool {
    matches!(
        code,
        Code::Wait
            | Code::Fnclex
            | Code::Fldcw_m2byte
            | Code::Fnstcw_m2byte
            | Code::Fnstsw_m2byte
            | Code::Fnstsw_AX
            | Code::Fneni
            | Code::Fndisi
            | Code::Fnsetpm
            | Code::Frstpm
            | Code::Fstdw_AX
            | Code::Fstsg_AX
    )
}

/// Whether the instruction touches the x87 register file, as x87 or as MMX.
pub(crate) fn uses_x87(code: Code) -> bool {
    let mmx = |kind: &OpCodeOperandKind| {
        matches!(kind, OpCodeOperandKind::mm_or_mem | OpCodeOperandKind::mm_reg | OpCodeOperandKind::mm_rm)
    };
    let features = required_features(code);
    is_x87(code) || features.contains(&CpuidFeature::MMX) || code.op_code().op_kinds().iter().any(mmx)
}

/// Whether the instruction waits for pending x87 exceptions: all of x87 but the FN instructions, and what has an MMX
/// register (CVTPI2PD from memory has none).
pub(crate) fn waits(instruction: &Instruction) -> bool {
    let code = instruction.code();
    let mmx = (0..instruction.op_count()).any(|i| instruction.op_register(i).is_mm());
    mmx || is_x87(code) && (!is_x87_control(code) || matches!(code, Code::Wait | Code::Fldcw_m2byte))
}

/// Whether it is an x87 instruction.
pub(crate) fn is_x87(code: Code) -> bool {
    let x87 = [CpuidFeature::FPU, CpuidFeature::FPU287, CpuidFeature::FPU387];
    code == Code::Wait || required_features(code).iter().any(|feature| x87.contains(feature))
}
