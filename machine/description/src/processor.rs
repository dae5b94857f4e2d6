//! Virtual processors: how many, what they can do, what executes them.

use serde::{Deserialize, Serialize};

/// Virtual processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Processor {
    /// How many.
    pub count: u32,
    /// Which features guests see.
    pub level: CpuLevel,
    /// What executes them.
    pub engine: EngineChoice,
    /// How the software engine executes; for tests and measurements.
    #[serde(skip_serializing_if = "is_default")]
    pub tier: Tier,
    /// One thread, and time that counts instructions: every run is the same. The software engine only.
    pub deterministic: bool,
}

impl Default for Processor {
    fn default() -> Processor {
        Processor { count: 1, level: CpuLevel::V2, engine: EngineChoice::Auto, tier: Tier::Auto, deterministic: false }
    }
}

/// How the software engine executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// As the engine thinks best.
    #[default]
    Auto,
    /// By the interpreter alone.
    Interpreter,
    /// Hot code as host code.
    Translator,
    /// Both side by side, until they differ.
    Lockstep,
}

impl Tier {
    /// All of them.
    pub const ALL: [Tier; 4] = [Tier::Auto, Tier::Interpreter, Tier::Translator, Tier::Lockstep];

    /// The name on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Tier::Auto => "auto",
            Tier::Interpreter => "interpreter",
            Tier::Translator => "translator",
            Tier::Lockstep => "lockstep",
        }
    }
}

fn is_default(tier: &Tier) -> bool {
    *tier == Tier::Auto
}

/// Level of the processor, as in the x86-64 psABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuLevel {
    /// SSE2 only: for a KVM that shows nothing more.
    V1,
    /// Up to SSE4.2.
    #[default]
    V2,
    /// Up to AVX2.
    V3,
}

/// Which engine to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// KVM where its self-test passes, else the software engine.
    #[default]
    Auto,
    /// The software engine.
    Soft,
    /// KVM, or an error.
    Kvm,
}

impl EngineChoice {
    /// The name on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            EngineChoice::Auto => "auto",
            EngineChoice::Soft => "soft",
            EngineChoice::Kvm => "kvm",
        }
    }
}
