//! Why a machine cannot be made.

use crate::boot::LoadError;
use bulkhead_device::{BusError, SlotTaken};
use bulkhead_engine::EngineError;
use bulkhead_guest_memory::{AccessError, MemoryError};
use bulkhead_saved_state::SavedStateError;
use bulkhead_vm_description::Limit;

/// Why a machine cannot be made, saved or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The description breaks a limit.
    #[error("the description of the VM is refused")]
    Description(#[from] Limit),
    /// The host refuses the RAM.
    #[error("cannot get {size} bytes of RAM for the VM")]
    Memory {
        /// How much was asked for.
        size: u64,
        /// The refusal.
        #[source]
        source: MemoryError,
    },
    /// The engine refuses something.
    #[error("the processor engine refuses the VM")]
    Engine(#[from] EngineError),
    /// The engine on this host lacks features of the level.
    #[error(
        "the processor level {level} cannot be offered here: {missing}; choose a lower level (--cpu-level v1 is the lowest)"
    )]
    CpuLevel {
        /// The level.
        level: String,
        /// The missing feature bits.
        missing: String,
    },
    /// The kernel cannot be started.
    #[error("cannot start the kernel")]
    Kernel(#[from] LoadError),
    /// A file was not passed, or cannot be read.
    #[error("cannot read {what}")]
    File {
        /// Which one.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{what} cannot be used: {reason}")]
    BadFile {
        /// Which one.
        what: String,
        /// Why not.
        reason: String,
    },
    /// The saved state does not fit.
    #[error("the saved state cannot be used")]
    SavedState(#[from] SavedStateError),
    /// The saved state is of another machine.
    #[error("the saved state does not belong to this machine: {reason}")]
    OtherMachine {
        /// What differs.
        reason: String,
    },
    /// Two devices want the same place: a mistake in the catalog.
    #[error("the devices of the machine do not fit together")]
    Bus(#[from] BusError),
    /// Two functions want the same PCI slot: a mistake in the catalog.
    #[error("the devices of the machine do not fit together")]
    Slot(#[from] SlotTaken),
    /// The IDE controller refuses its drives.
    #[error("the IDE drives cannot be attached")]
    Ide(#[source] Box<bulkhead_ide::IdeError>),
    /// The display adapter is refused.
    #[error("the display adapter cannot be made")]
    Vga(#[source] Box<bulkhead_vga::VgaError>),
    /// The floppy controller or its medium is refused.
    #[error("the floppy drive cannot be attached")]
    Floppy(#[source] Box<bulkhead_floppy::FloppyError>),
    /// The DMA controllers are refused.
    #[error("the DMA controllers cannot be made")]
    Dma(#[source] Box<bulkhead_floppy::DmaError>),
    /// A firmware item is refused: a mistake in the assembly.
    #[error("the firmware's configuration cannot be made")]
    Firmware(#[from] bulkhead_fw_cfg::ItemError),
    /// A device of VMBus in a VM without it.
    #[error(
        "{device} needs VMBus, and the Hyper-V interface of this VM is off; switch it on, or use another kind of device"
    )]
    NoVmBus {
        /// Its name.
        device: String,
    },
    /// A legacy network adapter cannot be made.
    #[error("a network adapter cannot be made")]
    LegacyNic(#[from] bulkhead_legacy_nic::LegacyNicError),
    /// A device is refused on VMBus.
    #[error("VMBus cannot be set up")]
    VmBus(#[from] bulkhead_vmbus_channel::BusError),
    /// A disk without an image.
    #[error("the SCSI disk at location {location} has no medium; only DVD drives can be empty")]
    NoMedium {
        /// Its place on its controller.
        location: u8,
    },
    /// The units of a SCSI controller are refused.
    #[error("a SCSI controller cannot be made")]
    Scsi(#[from] bulkhead_vmbus_storage::LunError),
    /// A SCSI controller cannot be restored.
    #[error("a SCSI controller cannot be restored")]
    ScsiState(#[from] bulkhead_vmbus_storage::RestoreError),
    /// Guest memory was not where the layout says.
    #[error("guest memory is not as laid out")]
    Access(#[from] AccessError),
}

impl From<bulkhead_ide::IdeError> for MachineError {
    fn from(error: bulkhead_ide::IdeError) -> MachineError {
        MachineError::Ide(Box::new(error))
    }
}

impl From<bulkhead_vga::VgaError> for MachineError {
    fn from(error: bulkhead_vga::VgaError) -> MachineError {
        MachineError::Vga(Box::new(error))
    }
}

impl From<bulkhead_floppy::FloppyError> for MachineError {
    fn from(error: bulkhead_floppy::FloppyError) -> MachineError {
        MachineError::Floppy(Box::new(error))
    }
}

impl From<bulkhead_floppy::DmaError> for MachineError {
    fn from(error: bulkhead_floppy::DmaError) -> MachineError {
        MachineError::Dma(Box::new(error))
    }
}
