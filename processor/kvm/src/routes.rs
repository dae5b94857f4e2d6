//! Interrupt routes for level-triggered messages.
//!
//! With a split irqchip the kernel reports the end of a level-triggered interrupt only for vectors that stand in its
//! routing table below the number of IOAPIC pins. The contract knows messages and no pins, so each level-triggered
//! message takes the next place in that table when it is first sent.

use bulkhead_engine::{EngineError, Msi};
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi, kvm_irq_routing_msi__bindgen_ty_1,
};
use kvm_ioctls::VmFd;

use crate::host_error;

/// Pins that the kernel reserves for the IOAPIC.
pub const PINS: usize = 24;

const TRIGGER_LEVEL: u32 = 1 << 15;

/// The messages in the table, and where the next one goes.
#[derive(Default)]
pub struct LevelRoutes {
    messages: Vec<Msi>,
    next: usize,
}

impl LevelRoutes {
    /// Makes sure that the end of `msi` will be reported, if it is level-triggered.
    pub fn add(&mut self, vm: &VmFd, msi: Msi) -> Result<(), EngineError> {
        // The assertion level and the delivery status are not part of the route.
        let route = Msi { data: msi.data & !(1 << 14 | 1 << 12), ..msi };
        if msi.data & TRIGGER_LEVEL == 0 || self.messages.contains(&route) {
            return Ok(());
        }
        if self.messages.len() < PINS {
            self.messages.push(route);
        } else {
            self.messages[self.next] = route;
            self.next = (self.next + 1) % PINS;
        }
        let entries: Vec<_> = self.messages.iter().enumerate().map(|(pin, msi)| entry(pin, *msi)).collect();
        let table = KvmIrqRouting::from_entries(&entries).map_err(|error| EngineError::Unsupported {
            engine: "kvm",
            what: format!("{} interrupt routes ({error:?})", entries.len()),
        })?;
        vm.set_gsi_routing(&table).map_err(host_error("KVM_SET_GSI_ROUTING"))
    }
}

fn entry(pin: usize, msi: Msi) -> kvm_irq_routing_entry {
    let message = kvm_irq_routing_msi {
        address_lo: msi.address as u32,
        address_hi: (msi.address >> 32) as u32,
        data: msi.data,
        __bindgen_anon_1: kvm_irq_routing_msi__bindgen_ty_1 { pad: 0 },
    };
    kvm_irq_routing_entry {
        gsi: pin as u32,
        type_: KVM_IRQ_ROUTING_MSI,
        flags: 0,
        pad: 0,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi: message },
    }
}
