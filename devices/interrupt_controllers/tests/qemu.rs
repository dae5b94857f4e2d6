//! Random accesses and interrupts, compared with QEMU's controllers.

use bulkhead_device::{Line, LineInput, MmioBus, Msi, MsiSink, PortBus};
use bulkhead_interrupt_controllers::{Ioapic, Pic};
use bulkhead_qemu_oracle::{Choice, Log, Qemu};
use parking_lot::Mutex;
use std::sync::Arc;

/// The serial port and the keyboard controller drive lines of QEMU's board.
fn drive(qemu: &mut Qemu, pic: &Mutex<Pic>, log: &mut Log, line: u32, level: bool) {
    match (line, level) {
        (4, _) => qemu.port_write(0x3f9, 1, if level { 2 } else { 0 }),
        (_, true) => {
            qemu.port_write(0x64, 1, 0xd2);
            qemu.port_write(0x60, 1, 0);
        }
        (_, false) => {
            qemu.port_read(0x60, 1);
        }
    }
    pic.lock().set_input(line, level);
    log.note(format!("IRQ {line} {level}"));
}

#[test]
fn pic() {
    let Some(mut qemu) = Qemu::start() else { return };
    let (ports, pic) = (PortBus::new(), Arc::new(Mutex::new(Pic::new("pic", Line::unconnected()))));
    for (ports_of_bank, bank) in
        [(0x20..=0x21, Pic::PRIMARY), (0xa0..=0xa1, Pic::SECONDARY), (0x4d0..=0x4d1, Pic::ELCR)]
    {
        ports.map(ports_of_bank, &pic, bank).unwrap();
    }
    let (mut choice, mut log) = (Choice::new(0x8259), Log::default());
    let out = |qemu: &mut Qemu, log: &mut Log, port: u16, value: u32| {
        log.note(format!("out {port:#x} {value:#x}"));
        qemu.port_write(port, 1, value);
        ports.write(port, 1, value);
    };
    // The keyboard controller interrupts; counter 0 of the timer is quiet.
    qemu.port_write(0x64, 1, 0x60);
    qemu.port_write(0x60, 1, 0x03);
    qemu.port_write(0x43, 1, 0x30);
    let mut raised: Option<u32> = None;
    for round in 0..400 {
        // Only between rounds: for a request that an input made by an edge, level mode means something else in QEMU.
        if let Some(line) = raised.take() {
            drive(&mut qemu, &pic, &mut log, line, false);
        }
        for port in [0x20, 0xa0] {
            out(&mut qemu, &mut log, port, 0x11);
        }
        for port in [0x4d0, 0x4d1] {
            let value = choice.number() & 0xff;
            out(&mut qemu, &mut log, port, value);
        }
        for (port, value) in
            [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0xa0, 0x11), (0xa1, 0x38), (0xa1, 2), (0xa1, 1)]
        {
            out(&mut qemu, &mut log, port, value);
        }
        for _ in 0..40 {
            match choice.number() % 8 {
                0 | 1 => {
                    // None of the secondary: QEMU remembers a cascade request after it went away, ours (and the chip) does not.
                    match raised.take() {
                        Some(line) => drive(&mut qemu, &pic, &mut log, line, false),
                        None => {
                            let line = choice.of(&[1, 4]);
                            drive(&mut qemu, &pic, &mut log, line, true);
                            raised = Some(line);
                        }
                    }
                }
                2 | 3 => {
                    let (port, value) = (choice.of(&[0x21, 0xa1]), choice.of(&[0, 0xff, 0x12, 0x10]));
                    out(&mut qemu, &mut log, port, value);
                }
                4 => {
                    // Commands, of which initializations are rare.
                    let init = if choice.number().is_multiple_of(16) { 0x1f } else { 0xef };
                    let (port, value) = (choice.of(&[0x20, 0xa0]), choice.number() & init);
                    out(&mut qemu, &mut log, port, value);
                }
                5 => {
                    let port = choice.of(&[0x20, 0xa0]);
                    out(&mut qemu, &mut log, port, 0x0c);
                    let what = format!("round {round}: poll {port:#x}");
                    log.compare(what, ports.read(port, 1).into(), qemu.port_read(port, 1).into());
                }
                _ => {
                    let port = choice.of(&[0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1]);
                    let what = format!("round {round}: in {port:#x}");
                    log.compare(what, ports.read(port, 1).into(), qemu.port_read(port, 1).into());
                }
            }
        }
    }
}

struct Nowhere;

impl MsiSink for Nowhere {
    fn send_msi(&self, _msi: Msi) {}
}

#[test]
fn ioapic_registers() {
    let Some(mut qemu) = Qemu::start() else { return };
    const BASE: u64 = 0xfec0_0000;
    let (memory, ioapic) = (MmioBus::new(), Arc::new(Mutex::new(Ioapic::new("ioapic", Arc::new(Nowhere)))));
    memory.map(BASE..BASE + 0x1000, &ioapic, 0).unwrap();
    let (mut choice, mut log) = (Choice::new(0x82093), Log::default());
    qemu.port_write(0x43, 1, 0x30);
    for _ in 0..6000 {
        let register = choice.of(&[0u32, 1, 2, 3, 0x0f, 0x10, 0x11, 0x1a, 0x1b, 0x24, 0x25, 0x3e, 0x3f]);
        qemu.memory_write(BASE, 4, register.into());
        memory.write(BASE, &register.to_le_bytes());
        if choice.number().is_multiple_of(2) {
            let value = choice.number();
            log.note(format!("register {register:#x} := {value:#x}"));
            qemu.memory_write(BASE + 0x10, 4, value.into());
            memory.write(BASE + 0x10, &value.to_le_bytes());
        } else {
            let mut ours = [0; 4];
            memory.read(BASE + 0x10, &mut ours);
            let ours = u32::from_le_bytes(ours);
            // QEMU keeps bits that do not exist.
            let mask = [0x1_ffff, 0xff00_0000, u32::MAX][if register < 0x10 { 2 } else { register as usize & 1 }];
            let theirs = qemu.memory_read(BASE + 0x10, 4) as u32;
            log.compare(format!("register {register:#x}"), (ours & mask).into(), (theirs & mask).into());
        }
    }
}
