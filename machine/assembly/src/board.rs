//! The board while devices are put on it: buses, lines and everything that a line of the catalog may need.

use crate::MachineError;
use crate::boot::FirmwareTables;
use crate::layout::RamLayout;
use crate::machine::{Handles, MachineConfig};
use crate::memory_plan::MemoryPlan;
use crate::windows::Windows;
use bulkhead_device::{Device, MmioBus, PciBus, PortBus};
use bulkhead_engine::Partition;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_hyperv::HyperV;
use bulkhead_interrupt_controllers::{InterruptLines, Ioapic, Pic};
use bulkhead_pci::PciInterrupts;
use bulkhead_reactor::Reactor;
use bulkhead_saved_state::{SavedFile, SavedState};
use bulkhead_vm_description::VmDescription;
use bulkhead_vmbus::VmBus;
use parking_lot::Mutex;
use std::sync::Arc;

/// A device of any type.
pub type AnyDevice = Arc<Mutex<dyn Device>>;

/// What devices are put on.
pub(crate) struct Board<'a> {
    pub vm: &'a VmDescription,
    pub config: &'a MachineConfig<'a>,
    pub reactor: Reactor,
    pub ram: RamLayout,
    pub memory: GuestMemory,
    /// What lies where in it.
    pub plan: &'a MemoryPlan,
    /// Devices may show parts of it to the guest; they hold it weakly.
    pub partition: Arc<dyn Partition>,
    pub tables: &'a FirmwareTables,
    pub windows: Arc<Windows>,
    pub ports: PortBus,
    pub mmio: MmioBus,
    pub pci: PciBus,
    /// The interrupt pins of PCI slots, once the ISA bridge is there.
    pub pci_interrupts: Option<PciInterrupts>,
    pub pic: Arc<Mutex<Pic>>,
    pub ioapic: Arc<Mutex<Ioapic>>,
    pub lines: InterruptLines,
    /// The Hyper-V interface, if the VM has it; devices on VMBus reach the guest through it.
    pub hyperv: Option<Arc<HyperV>>,
    /// What they are offered on.
    pub vmbus: Option<Arc<VmBus>>,
    /// The state to restore; `None` after power-on.
    pub saved: Option<&'a mut SavedFile>,
    pub devices: Vec<AnyDevice>,
    pub handles: Handles,
}

impl Board<'_> {
    /// The saved state of the device `name`, when a machine is restored.
    pub fn state(&mut self, name: &str) -> Result<Option<SavedState>, MachineError> {
        take_state(&mut self.saved, name)
    }

    /// Keeps a device for as long as the machine lives, and returns it.
    pub fn keep<T: Device + 'static>(&mut self, device: Arc<Mutex<T>>) -> Arc<Mutex<T>> {
        self.devices.push(device.clone());
        device
    }
}

/// The saved state of an object, when a machine is restored.
pub(crate) fn take_state(saved: &mut Option<&mut SavedFile>, name: &str) -> Result<Option<SavedState>, MachineError> {
    match saved {
        Some(file) => Ok(Some(file.take(name)?.into_state())),
        None => Ok(None),
    }
}
