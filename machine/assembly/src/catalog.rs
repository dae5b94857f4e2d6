//! The one table of all devices that a machine can have. A device is a function that puts it on the [`Board`], if the
//! description has it, in the state after power-on or restored.

use crate::MachineError;
use crate::board::Board;
use crate::resources::VGA_FIRMWARE;
use crate::{dynamic_memory, firmware, layout, network, storage, video, vmbus};
use bulkhead_debug_ports::{DebugConsole, DebugExit};
use bulkhead_device::{Line, PciAddress};
use bulkhead_floppy::{DmaController, FloppyController};
use bulkhead_fw_cfg::FwCfg;
use bulkhead_hyperv::HyperVDevice;
use bulkhead_ide::{DriveConfig, IdeController};
use bulkhead_pci::{ConfigPorts, HostBridge, IsaBridge, PciInterrupts, PowerManagement};
use bulkhead_ps2::Ps2;
use bulkhead_rtc::Rtc;
use bulkhead_serial::Serial;
use bulkhead_timers::{Hpet, HpetLines, Pit};
use bulkhead_vga::Vga;
use bulkhead_vm_description::DriveKind;
use parking_lot::Mutex;
use std::sync::Arc;

type Attach = fn(&mut Board<'_>) -> Result<(), MachineError>;

/// Name for people, and what puts it on the board. The order is that of resets and saves.
pub(crate) const CATALOG: &[(&str, Attach)] = &[
    ("interrupt controllers", interrupt_controllers),
    ("Hyper-V interface", hyperv_interface),
    ("interval timer, HPET, clock", timers),
    ("PCI bridges and power management", pci_bridges),
    ("IDE controller", ide_controller),
    ("DMA and floppy controllers", floppy_controller),
    ("display adapter", display_adapter),
    ("keyboard and mouse", keyboard_and_mouse),
    ("serial ports", serial_ports),
    ("SCSI controllers", storage::scsi_controllers),
    ("fast paths of IDE disks", storage::ide_fast_paths),
    ("integration services", vmbus::integration_services),
    ("synthetic keyboard and mouse", vmbus::synthetic_input),
    ("synthetic display", video::attach),
    ("dynamic memory", dynamic_memory::attach),
    ("sockets", vmbus::sockets),
    ("network adapters", network::adapters),
    ("VMBus", vmbus::bus),
    ("firmware configuration", firmware_configuration),
    ("debug ports", debug_ports),
];

/// The PIC and the I/O APIC are made before all others, because lines lead to them; here they get their addresses.
fn interrupt_controllers(board: &mut Board<'_>) -> Result<(), MachineError> {
    use bulkhead_interrupt_controllers::Pic;
    let (pic, ioapic) = (board.pic.clone(), board.ioapic.clone());
    board.ports.map(0x20..=0x21, &pic, Pic::PRIMARY)?;
    board.ports.map(0xa0..=0xa1, &pic, Pic::SECONDARY)?;
    board.ports.map(0x4d0..=0x4d1, &pic, Pic::ELCR)?;
    board.mmio.map(layout::IOAPIC..layout::IOAPIC + 0x1000, &ioapic, 0)?;
    board.keep(pic);
    board.keep(ioapic);
    Ok(())
}

/// Made before all others as well, because VPs' exits and the devices of VMBus need it.
fn hyperv_interface(board: &mut Board<'_>) -> Result<(), MachineError> {
    if let Some(interface) = board.hyperv.clone() {
        board.keep(Arc::new(Mutex::new(HyperVDevice::new(interface))));
    }
    vmbus::make_bus(board)
}

/// The HPET stands between the PIT and RTC and their interrupts, so that its legacy mode can take them over.
fn timers(board: &mut Board<'_>) -> Result<(), MachineError> {
    let reactor = board.reactor.clone();
    let lines = HpetLines {
        irq0: board.lines.line(0),
        irq8: board.lines.line(8),
        pins: std::array::from_fn(|pin| board.lines.line(20 + pin as u32)),
    };
    let hpet = match board.state("hpet")? {
        Some(state) => Hpet::restore("hpet", &reactor, lines, &state)?,
        None => Hpet::new("hpet", &reactor, lines),
    };
    let pit_line = Line::new(hpet.clone(), Hpet::PIT);
    let pit = match board.state("pit")? {
        Some(state) => Pit::restore("pit", &reactor, pit_line, &state)?,
        None => Pit::new("pit", &reactor, pit_line),
    };
    let rtc_line = Line::new(hpet.clone(), Hpet::RTC);
    let rtc = match board.state("rtc")? {
        Some(state) => Rtc::restore("rtc", &reactor, rtc_line, &state)?,
        None => {
            let rtc = Rtc::new("rtc", &reactor, rtc_line, board.config.wall_clock);
            for (index, value) in firmware::cmos(board.vm, board.ram) {
                rtc.lock().set_memory(index, value);
            }
            rtc
        }
    };
    board.mmio.map(layout::HPET..layout::HPET + 0x400, &hpet, 0)?;
    board.ports.map(0x40..=0x43, &pit, Pit::COUNTERS)?;
    board.ports.map(0x61..=0x61, &pit, Pit::CONTROL)?;
    board.ports.map(0x70..=0x71, &rtc, Rtc::LOW)?;
    board.ports.map(0x72..=0x73, &rtc, Rtc::HIGH)?;
    board.keep(hpet);
    board.keep(pit);
    board.handles.rtc = Some(board.keep(rtc));
    Ok(())
}

/// Device and function on PCI bus 0.
const fn at(device: u8, function: u8) -> PciAddress {
    PciAddress { device, function }
}

fn pci_bridges(board: &mut Board<'_>) -> Result<(), MachineError> {
    let power = board.config.guest.clone();
    let ports = match board.state("pci")? {
        Some(state) => ConfigPorts::restore("pci", &board.pci, power.clone(), &state)?,
        None => ConfigPorts::new("pci", &board.pci, power.clone()),
    };
    let ports = Arc::new(Mutex::new(ports));
    board.ports.map(0xcf8..=0xcff, &ports, 0)?;
    board.keep(ports);

    let windows = board.windows.clone();
    let host = match board.state("host_bridge")? {
        Some(state) => HostBridge::restore("host_bridge", windows, &state)?,
        None => HostBridge::new("host_bridge", windows),
    };
    let host = Arc::new(Mutex::new(host));
    board.pci.add(at(0, 0), &host)?;
    board.keep(host);

    let irqs = std::array::from_fn(|irq| board.lines.line(irq as u32));
    let isa = match board.state("isa_bridge")? {
        Some(state) => IsaBridge::restore("isa_bridge", irqs, &state)?,
        None => IsaBridge::new("isa_bridge", irqs),
    };
    let isa = Arc::new(Mutex::new(isa));
    board.pci.add(at(1, 0), &isa)?;
    board.pci_interrupts = Some(PciInterrupts::new(&isa));
    board.keep(isa);

    let (reactor, sci) = (board.reactor.clone(), board.lines.line(layout::SCI.into()));
    let function = match board.state("power_management")? {
        Some(state) => PowerManagement::restore("power_management", &reactor, &board.ports, sci, power, &state)?,
        None => PowerManagement::new("power_management", &reactor, &board.ports, sci, power),
    };
    board.ports.map(0xb2..=0xb3, &function, PowerManagement::SMI)?;
    board.pci.add(at(1, 3), &function)?;
    board.handles.power_management = Some(board.keep(function));
    Ok(())
}

fn ide_controller(board: &mut Board<'_>) -> Result<(), MachineError> {
    let wiring = bulkhead_ide::Wiring {
        reactor: board.reactor.clone(),
        memory: board.memory.clone(),
        ports: board.ports.clone(),
        irqs: [board.lines.line(14), board.lines.line(15)],
    };
    let mut drives: [[Option<DriveConfig>; 2]; 2] = Default::default();
    for drive in &board.vm.ide {
        let medium = drive.medium.as_ref().map(|medium| board.config.resources.disk(&medium.file)).transpose()?;
        let place = &mut drives[usize::from(drive.controller)][usize::from(drive.device)];
        *place = match (drive.kind, medium) {
            (DriveKind::Disk, medium) => medium.map(DriveConfig::Disk),
            (DriveKind::Cd, medium) => Some(DriveConfig::Dvd(medium)),
        };
    }
    let controller = match board.state("ide")? {
        Some(state) => IdeController::restored("ide", wiring, drives, &state)?,
        None => IdeController::new("ide", wiring, drives)?,
    };
    board.pci.add(at(1, 1), &controller)?;
    board.handles.ide = Some(board.keep(controller));
    Ok(())
}

/// The DMA controllers are always there; a floppy controller only with a drive.
fn floppy_controller(board: &mut Board<'_>) -> Result<(), MachineError> {
    let memory = board.memory.clone();
    let dma = match board.state("dma")? {
        Some(state) => DmaController::restored("dma", memory, &board.ports, &state)?,
        None => DmaController::new("dma", memory, &board.ports)?,
    };
    board.keep(dma.clone());
    let Some(floppy) = &board.vm.floppy else { return Ok(()) };
    let medium = floppy.medium.as_ref().map(|medium| board.config.resources.disk(&medium.file)).transpose()?;
    let wiring = bulkhead_floppy::Wiring {
        reactor: board.reactor.clone(),
        ports: board.ports.clone(),
        irq: board.lines.line(6),
        dma,
    };
    let drives = [Some(medium), None];
    let controller = match board.state("floppy")? {
        Some(state) => FloppyController::restored("floppy", wiring, drives, &state)?,
        None => FloppyController::new("floppy", wiring, drives)?,
    };
    board.handles.floppy = Some(board.keep(controller));
    Ok(())
}

fn display_adapter(board: &mut Board<'_>) -> Result<(), MachineError> {
    let rom = match board.vm.direct_kernel {
        Some(_) => None,
        None => Some(board.config.resources.read(VGA_FIRMWARE)?.into()),
    };
    let wiring = bulkhead_vga::Wiring {
        reactor: board.reactor.clone(),
        ports: board.ports.clone(),
        memory: board.mmio.clone(),
        rom,
    };
    let vga = match board.state("vga")? {
        Some(state) => Vga::restored("vga", wiring, &state)?,
        None => Vga::new("vga", wiring)?,
    };
    board.pci.add(at(2, 0), &vga)?;
    board.handles.vga = Some(board.keep(vga));
    Ok(())
}

fn keyboard_and_mouse(board: &mut Board<'_>) -> Result<(), MachineError> {
    let (keyboard, mouse, power) = (board.lines.line(1), board.lines.line(12), board.config.guest.clone());
    let device = match board.state("ps2")? {
        Some(state) => Ps2::restore("ps2", keyboard, mouse, power, &state)?,
        None => Ps2::new("ps2", keyboard, mouse, power),
    };
    let device = Arc::new(Mutex::new(device));
    board.ports.map(0x60..=0x60, &device, Ps2::DATA)?;
    board.ports.map(0x64..=0x64, &device, Ps2::COMMAND)?;
    board.ports.map(0x92..=0x92, &device, Ps2::PORT_92)?;
    board.handles.ps2 = Some(board.keep(device));
    Ok(())
}

fn serial_ports(board: &mut Board<'_>) -> Result<(), MachineError> {
    for (number, base, irq) in [(1, 0x3f8u16, 4), (2, 0x2f8, 3)] {
        if board.vm.serial_port(number).is_none() {
            continue;
        }
        let name = format!("serial{number}");
        let line = board.lines.line(irq);
        let serial = match board.state(&name)? {
            Some(state) => Serial::restore(&name, &board.reactor, line, &state)?,
            None => Serial::new(&name, &board.reactor, line),
        };
        board.ports.map(base..=base + 7, &serial, 0)?;
        let serial = board.keep(serial);
        board.handles.serial[usize::from(number) - 1] = Some(serial);
    }
    Ok(())
}

fn firmware_configuration(board: &mut Board<'_>) -> Result<(), MachineError> {
    if board.vm.direct_kernel.is_some() {
        return Ok(());
    }
    let items = firmware::items(board.vm, board.ram, board.tables, board.config.resources)?;
    let memory = board.memory.clone();
    let device = match board.state("fw_cfg")? {
        Some(state) => FwCfg::restored("fw_cfg", items, memory, &state)?,
        None => FwCfg::new("fw_cfg", items, memory),
    };
    let device = Arc::new(Mutex::new(device));
    board.ports.map(bulkhead_fw_cfg::PORTS, &device, 0)?;
    board.keep(device);
    Ok(())
}

/// Exit at F4h, consoles at E9h and, for the BIOS's own messages, 402h.
fn debug_ports(board: &mut Board<'_>) -> Result<(), MachineError> {
    if !board.vm.test_devices {
        return Ok(());
    }
    let guest = board.config.guest.clone();
    let exit = move |value| guest.debug_exit(value);
    let device = match board.state("debug_exit")? {
        Some(state) => DebugExit::restore("debug_exit", exit, &state)?,
        None => DebugExit::new("debug_exit", exit),
    };
    let device = Arc::new(Mutex::new(device));
    board.ports.map(0xf4..=0xf7, &device, 0)?;
    board.keep(device);

    let guest = board.config.guest.clone();
    let print = move |bytes: &[u8]| guest.debug_print(bytes);
    let device = match board.state("debug_console")? {
        Some(state) => DebugConsole::restore("debug_console", print, &state)?,
        None => DebugConsole::new("debug_console", print),
    };
    let device = Arc::new(Mutex::new(device));
    board.ports.map(0xe9..=0xe9, &device, 0)?;
    board.ports.map(0x402..=0x402, &device, 0)?;
    board.keep(device);
    Ok(())
}
