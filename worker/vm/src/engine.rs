//! Which engine runs this VM.

use bulkhead_engine::{Engine, EngineError};
use bulkhead_kvm::{KvmEngine, probe};
use bulkhead_soft::{Options, SoftEngine};
use bulkhead_vm_description::{EngineChoice, Processor, Tier};

/// An engine, and the rate of its guests' TSC in Hz.
pub struct Chosen {
    pub engine: Box<dyn Engine>,
    pub tsc_hz: u64,
}

/// The engine that the description asks for. `auto` takes KVM only after its self-test, and the software engine otherwise.
///
/// # Errors
/// `Unavailable`, with what is missing and what to do.
pub fn choose(processor: &Processor) -> Result<Chosen, EngineError> {
    match processor.engine {
        EngineChoice::Soft => soft(processor.tier),
        EngineChoice::Kvm => {
            let verdict = probe();
            if !verdict.is_hardware() {
                // Asked for by name, an emulating KVM is used: it is slow, but it is what the user wants to look at.
                tracing::warn!(%verdict, "KVM is not what it should be");
            }
            kvm()
        }
        EngineChoice::Auto if processor.deterministic => soft(processor.tier),
        EngineChoice::Auto => {
            let verdict = probe();
            if verdict.is_hardware() {
                return kvm();
            }
            tracing::info!(%verdict, "the software engine is used");
            soft(processor.tier)
        }
    }
}

/// The software engine computes the TSC from VM time, so its rate is free: one tick per nanosecond.
fn soft(tier: Tier) -> Result<Chosen, EngineError> {
    let options = Options::default();
    let options = match tier {
        Tier::Auto => options,
        Tier::Interpreter => Options { tier: bulkhead_soft::Tier::Interpreter, ..options },
        Tier::Translator => Options { tier: bulkhead_soft::Tier::Translator, ..options },
        Tier::Lockstep => Options { tier: bulkhead_soft::Tier::Lockstep, ..options },
    };
    Ok(Chosen { engine: Box::new(SoftEngine::with_options(options)), tsc_hz: 1_000_000_000 })
}

/// KVM's TSC runs at the host's rate.
fn kvm() -> Result<Chosen, EngineError> {
    let engine = KvmEngine::open()?;
    let tsc_hz = engine.tsc_hz()?;
    Ok(Chosen { engine: Box::new(engine), tsc_hz })
}
