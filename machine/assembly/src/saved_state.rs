//! The head of a saved machine: what it was made of, and what cannot differ when it comes back.

use crate::MachineError;
use bulkhead_engine::cpu_model::CpuModel;
use bulkhead_saved_state::{SavedFile, SavedStateError};
use bulkhead_vm_description::VmDescription;
use minicbor::{Decode, Encode};

/// Section kind.
pub const KIND: &str = "machine";
/// Version that this build writes.
pub const VERSION: u32 = 1;

/// The head.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedMachine {
    /// Id of the VM.
    #[n(0)]
    pub id: String,
    /// Virtual processors.
    #[n(1)]
    pub vps: u32,
    /// RAM in bytes.
    #[n(2)]
    pub memory: u64,
    /// Bytes of firmware in the memory file.
    #[n(3)]
    pub firmware_len: u64,
    /// Processor model, such as `v2+crypto`.
    #[n(4)]
    pub cpu_model: String,
    /// Rate of the TSC in Hz.
    #[n(5)]
    pub tsc_hz: u64,
    /// VM time in nanoseconds.
    #[n(6)]
    pub now: u64,
    /// Whether it ran in deterministic mode.
    #[n(7)]
    pub deterministic: bool,
    /// Host's time in seconds since 1970 when it was saved.
    #[n(8)]
    pub wall_seconds: u64,
}

/// The head of a saved machine, before anything is made of it.
///
/// # Errors
/// There is none, or of a newer version.
pub fn head(file: &SavedFile) -> Result<SavedMachine, MachineError> {
    let section = file.sections().find(|section| section.name() == "machine" && section.kind() == KIND);
    let missing = || SavedStateError::Missing { name: "machine".into() };
    Ok(section.ok_or_else(missing)?.decode(1..=VERSION)?)
}

impl SavedMachine {
    /// The head of a machine. `times`: VM time in nanoseconds, and the host's in seconds since 1970.
    pub fn of(vm: &VmDescription, model: &CpuModel, tsc_hz: u64, times: (u64, u64), firmware_len: u64) -> SavedMachine {
        SavedMachine {
            id: vm.id.to_string(),
            vps: vm.processor.count,
            memory: vm.memory.size.bytes(),
            firmware_len,
            cpu_model: model.name(),
            tsc_hz,
            now: times.0,
            wall_seconds: times.1,
            deterministic: vm.processor.deterministic,
        }
    }

    /// Whether a description can take this state over.
    ///
    /// # Errors
    /// `OtherMachine`, with what differs.
    pub fn check(&self, vm: &VmDescription) -> Result<(), MachineError> {
        let differs = |what: &str, saved: &dyn std::fmt::Display, now: &dyn std::fmt::Display| {
            Err(MachineError::OtherMachine { reason: format!("it was saved with {what} {saved}, this VM has {now}") })
        };
        if self.vps != vm.processor.count {
            return differs("processors:", &self.vps, &vm.processor.count);
        }
        if self.memory != vm.memory.size.bytes() {
            return differs("bytes of memory:", &self.memory, &vm.memory.size.bytes());
        }
        if self.deterministic != vm.processor.deterministic {
            return differs("deterministic mode:", &self.deterministic, &vm.processor.deterministic);
        }
        if self.firmware_len > 16 << 20 || !self.firmware_len.is_multiple_of(4096) {
            let reason = format!("its firmware has {} bytes", self.firmware_len);
            return Err(MachineError::OtherMachine { reason });
        }
        Ok(())
    }
}
