//! Which instruction forms exist for guests of the richest CPU model, and which of them are generated.

use std::sync::OnceLock;

use bulkhead_engine::cpu_model::{CpuLevel, CpuModel};
use bulkhead_native::Features;
use iced_x86::{Code, CpuidFeature, Mnemonic, OpCodeOperandKind};

use crate::Mode;

/// An instruction form in one mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Form {
    /// Opcode, operand kinds and sizes.
    pub code: Code,
    /// Segment of the code.
    pub mode: Mode,
}

/// Why a form is not generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// Would call the host's kernel; the ways back differ between vendors.
    SystemCall,
    /// Time, entropy, processor identity.
    NotReproducible,
    /// Selectors and descriptors of the host's kernel.
    Segmentation,
    /// Images with the x87 instruction pointer or the host's larger XSAVE area.
    StateImage,
    /// The architecture leaves the result undefined.
    Undefined,
}

impl Refusal {
    /// For the table in `docs/reference/instructions.md`.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::SystemCall => "system call: conformance suite",
            Self::NotReproducible => "differs from run to run: conformance suite",
            Self::Segmentation => "depends on descriptors: conformance suite",
            Self::StateImage => "holds host pointers: `processor/native/tests/images.rs`",
            Self::Undefined => "result undefined",
        }
    }
}

/// Every form that a guest of the richest model may execute, in all modes, in a fixed order.
pub fn forms() -> &'static [Form] {
    static FORMS: OnceLock<Vec<Form>> = OnceLock::new();
    FORMS.get_or_init(|| {
        let table = CpuModel { level: CpuLevel::V3, crypto: true }.cpuid(1);
        let features = Features::from_cpuid(|leaf, subleaf| {
            let value = table.get(leaf, subleaf);
            [value.eax, value.ebx, value.ecx, value.edx]
        });
        let all = Code::values().flat_map(|code| Mode::ALL.map(|mode| Form { code, mode }));
        all.filter(|form| exists(*form, &features)).collect()
    })
}

fn exists(form: Form, features: &Features) -> bool {
    let code = form.code;
    let info = code.op_code();
    let decoded = match form.mode {
        Mode::Long => info.mode64() && info.intel_decoder64() && info.long_mode(),
        Mode::Compatibility => info.mode32() && info.intel_decoder32() && info.compatibility_mode(),
        Mode::Segmented => info.mode16() && info.intel_decoder16() && info.compatibility_mode(),
    };
    // WAIT-prefixed forms are two instructions to a processor; others need decoder options for extinct processors.
    info.is_instruction() && decoded && !info.fwait() && info.decoder_option() == 0 && features.allows(code)
}

/// Why `code` is not generated, if so.
pub fn refusal(code: Code) -> Option<Refusal> {
    let info = code.op_code();
    if let Some(refusal) = by_mnemonic(code.mnemonic()) {
        return Some(refusal);
    }
    if code.cpuid_features().contains(&CpuidFeature::FSGSBASE) || info.op_kinds().iter().any(is_segment) || is_far(code)
    {
        return Some(Refusal::Segmentation);
    }
    // Neither vendor says what BSWAP does to 16 bits.
    matches!(code, Code::Bswap_r16).then_some(Refusal::Undefined)
}

fn by_mnemonic(mnemonic: Mnemonic) -> Option<Refusal> {
    use Mnemonic as M;
    match mnemonic {
        M::Syscall | M::Sysenter | M::Sysret | M::Sysretq | M::Sysexit | M::Sysexitq | M::Int | M::Int1 | M::Int3 => {
            Some(Refusal::SystemCall)
        }
        M::Cpuid | M::Rdtsc | M::Rdtscp | M::Rdpmc | M::Rdpid | M::Rdrand | M::Rdseed | M::Xgetbv => {
            Some(Refusal::NotReproducible)
        }
        M::Lar | M::Lsl | M::Verr | M::Verw | M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss | M::Arpl => {
            Some(Refusal::Segmentation)
        }
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw | M::Retf | M::Iret | M::Iretd | M::Iretq => {
            Some(Refusal::Segmentation)
        }
        M::Fxsave | M::Fxsave64 | M::Fnstenv | M::Fnsave | M::Xsave | M::Xsave64 | M::Xrstor | M::Xrstor64 => {
            Some(Refusal::StateImage)
        }
        _ => None,
    }
}

fn is_segment(kind: &OpCodeOperandKind) -> bool {
    use OpCodeOperandKind as K;
    matches!(kind, K::seg_reg | K::es | K::cs | K::ss | K::ds | K::fs | K::gs | K::farbr2_2 | K::farbr4_2)
}

fn is_far(code: Code) -> bool {
    matches!(
        code,
        Code::Jmp_m1616 | Code::Jmp_m1632 | Code::Jmp_m1664 | Code::Call_m1616 | Code::Call_m1632 | Code::Call_m1664
    )
}
