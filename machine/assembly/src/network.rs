//! Network adapters, on VMBus and on the PCI bus, in the order of the description. Their cables are plugged in by whoever runs
//! the machine.

use crate::MachineError;
use crate::board::Board;
use crate::vmbus;
use bulkhead_device::{Line, PciAddress};
use bulkhead_legacy_nic::LegacyNic;
use bulkhead_network_vsp::NetworkAdapter;
use bulkhead_packets::MacAddress;
use bulkhead_port::Nic;
use bulkhead_vm_description::AdapterKind;
use parking_lot::Mutex;
use std::sync::Arc;

/// PCI device number of the first legacy adapter, as in Hyper-V.
const FIRST_SLOT: u8 = 10;
/// What guests are told of their link, bit/s.
const LINK_SPEED: u64 = 10_000_000_000;

/// An adapter of the machine, for whoever plugs it in.
pub type NicHandle = Arc<Mutex<dyn Nic>>;

/// Name of the adapter at a place in the description, and of its section in a saved state.
pub fn adapter_name(index: usize) -> String {
    format!("network{index}")
}

pub(crate) fn adapters(board: &mut Board<'_>) -> Result<(), MachineError> {
    let mut slot = FIRST_SLOT;
    for (index, adapter) in board.vm.network.iter().enumerate() {
        let name = adapter_name(index);
        let nic: NicHandle = match adapter.kind {
            AdapterKind::Synthetic => synthetic(board, name, adapter.address)?,
            AdapterKind::Legacy => {
                let at = PciAddress { device: slot, function: 0 };
                slot += 1;
                legacy(board, &name, at, adapter.address)?
            }
        };
        board.handles.network.push(nic);
    }
    Ok(())
}

fn synthetic(board: &mut Board<'_>, name: String, address: MacAddress) -> Result<NicHandle, MachineError> {
    let bus = board.vmbus.clone().ok_or_else(|| MachineError::NoVmBus { device: name.clone() })?;
    let state = board.state(&name)?;
    let max_channels = board.vm.processor.count.min(64) as u16;
    let config = bulkhead_network_vsp::Config { name, address, link_speed: LINK_SPEED, max_channels };
    let offer = config.offer();
    let device = match state {
        Some(state) => NetworkAdapter::restored(config, &board.reactor, &state)?,
        None => NetworkAdapter::new(config, &board.reactor),
    };
    Ok(vmbus::offer(board, &bus, offer, device)?)
}

fn legacy(board: &mut Board<'_>, name: &str, at: PciAddress, address: MacAddress) -> Result<NicHandle, MachineError> {
    let irq = board.pci_interrupts.as_ref().map_or_else(Line::unconnected, |interrupts| interrupts.line(at, 1));
    let wiring = bulkhead_legacy_nic::Wiring {
        reactor: board.reactor.clone(),
        memory: board.memory.clone(),
        ports: board.ports.clone(),
        mmio: board.mmio.clone(),
        irq,
        address,
        port: None,
    };
    let nic = match board.state(name)? {
        Some(state) => LegacyNic::restored(name, wiring, &state)?,
        None => LegacyNic::new(name, wiring)?,
    };
    board.pci.add(at, &nic)?;
    let nic = board.keep(nic);
    Ok(nic)
}
