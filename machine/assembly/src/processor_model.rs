//! Which processor the guest sees: the model of the description's level, or on resume the one that was saved.

use crate::{MachineConfig, MachineError};
use bulkhead_engine::CpuidTable;
use bulkhead_engine::cpu_model::{CpuLevel, CpuModel};

/// The richest model of the description's level that the engine can offer.
pub fn choose(config: &MachineConfig<'_>) -> Result<CpuModel, MachineError> {
    let level = match config.description.processor.level {
        bulkhead_vm_description::CpuLevel::V1 => CpuLevel::V1,
        bulkhead_vm_description::CpuLevel::V2 => CpuLevel::V2,
        bulkhead_vm_description::CpuLevel::V3 => CpuLevel::V3,
    };
    CpuModel::best(level, &config.engine.supported_cpuid()).map_err(|missing| lacks(level.name(), &missing))
}

/// The model that a saved guest has seen: it must not lose features, and should not gain any.
pub fn saved(name: &str, config: &MachineConfig<'_>) -> Result<CpuModel, MachineError> {
    let model = CpuModel::named(name).ok_or_else(|| MachineError::OtherMachine {
        reason: format!("it was saved with the processor model {name:?}, which this build does not know"),
    })?;
    let missing = model.missing_in(&config.engine.supported_cpuid());
    if missing.is_empty() { Ok(model) } else { Err(lacks(name, &missing)) }
}

/// The leaves of the model, and those of the Hyper-V interface if the VM has it.
pub fn cpuid(config: &MachineConfig<'_>, model: CpuModel) -> CpuidTable {
    let vps = config.description.processor.count;
    let mut table = model.cpuid_on(vps, &config.engine.supported_cpuid());
    if config.description.hyperv.enabled {
        bulkhead_hyperv::add_leaves(&mut table, vps);
    }
    table
}

fn lacks(model: &str, missing: &[(u32, u32, &'static str, u32)]) -> MachineError {
    let bits = missing
        .iter()
        .map(|(leaf, subleaf, register, bits)| format!("CPUID {leaf:#x}.{subleaf} {register} lacks {bits:#x}"));
    MachineError::CpuLevel { level: model.to_owned(), missing: bits.collect::<Vec<_>>().join(", ") }
}
