//! Random accesses compared with QEMU's timers, while time stands still.

use bulkhead_device::{Line, MmioBus, PortBus};
use bulkhead_qemu_oracle::{Choice, Log, Qemu};
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_timers::{Hpet, HpetLines, Pit};

#[test]
fn pit() {
    let Some(mut qemu) = Qemu::start() else { return };
    let (_clock, reactor) = VirtualReactor::new(Time::ZERO, 0).unwrap();
    let (ports, pit) = (PortBus::new(), Pit::new("pit", &reactor, Line::unconnected()));
    ports.map(0x40..=0x43, &pit, Pit::COUNTERS).unwrap();
    ports.map(0x61..=0x61, &pit, Pit::CONTROL).unwrap();
    let (mut choice, mut log) = (Choice::new(0x8254), Log::default());
    let out = |qemu: &mut Qemu, log: &mut Log, port: u16, value: u32| {
        log.note(format!("out {port:#x} {value:#x}"));
        qemu.port_write(port, 1, value);
        ports.write(port, 1, value);
    };
    for round in 0..1500 {
        // A counter gets a mode and a count, and is read back in all ways.
        let (counter, access, mode) = (choice.number() % 3, choice.of(&[1, 2, 3]), choice.of(&[0, 2, 3, 4]));
        let port = 0x40 + counter as u16;
        out(&mut qemu, &mut log, 0x61, if counter == 2 { 1 } else { choice.number() & 3 });
        out(&mut qemu, &mut log, 0x43, counter << 6 | access << 4 | mode << 1);
        for _ in 0..if access == 3 { 2 } else { 1 } {
            // Even: in mode 3 the chip loads odd counts minus one, QEMU as they are.
            let value = choice.of(&[2, 0x10, 0x80, 0xfe, 8]);
            out(&mut qemu, &mut log, port, value);
        }
        for _ in 0..4 {
            let bytes = if access == 3 { 2 } else { 1 };
            // Read as it is; latched; status; both.
            let (command, reads) = choice.of(&[
                (None, bytes),
                (Some(counter << 6), bytes),
                (Some(0xe0 | 2 << counter), 1),
                (Some(0xc0 | 2 << counter), bytes + 1),
            ]);
            if let Some(command) = command {
                out(&mut qemu, &mut log, 0x43, command);
            }
            for read in 0..reads {
                let (ours, theirs) = (ports.read(port, 1), qemu.port_read(port, 1));
                // In a status, QEMU loads counts at once, and has OUT the other way round in modes 2 and 4.
                let status =
                    reads != bytes && read == 0 || reads == 1 && command.is_some_and(|command| command >= 0xe0);
                let mask = if !status {
                    0xff
                } else if matches!(mode, 0 | 3) {
                    0xbf
                } else {
                    0x3f
                };
                log.compare(format!("round {round}: in {port:#x}"), (ours & mask).into(), (theirs & mask).into());
            }
        }
        // Without the refresh clock, which both derive from time in their own way.
        let mask = if counter == 2 && matches!(mode, 0 | 3) { 0x2f } else { 0x0f };
        let (ours, theirs) = (ports.read(0x61, 1) & mask, qemu.port_read(0x61, 1) & mask);
        log.compare(format!("round {round}: in 0x61"), ours.into(), theirs.into());
    }
}

#[test]
fn hpet_registers() {
    let Some(mut qemu) = Qemu::start() else { return };
    const BASE: u64 = 0xfed0_0000;
    let (_clock, reactor) = VirtualReactor::new(Time::ZERO, 0).unwrap();
    let lines = HpetLines {
        irq0: Line::unconnected(),
        irq8: Line::unconnected(),
        pins: std::array::from_fn(|_| Line::unconnected()),
    };
    let (memory, hpet) = (MmioBus::new(), Hpet::new("hpet", &reactor, lines));
    memory.map(BASE..BASE + 0x400, &hpet, 0).unwrap();
    let (mut choice, mut log) = (Choice::new(0x4e70), Log::default());
    let read = |at: u64| {
        let mut data = [0; 4];
        memory.read(BASE + at, &mut data);
        u64::from(u32::from_le_bytes(data))
    };
    for _ in 0..8000 {
        let at = choice.of(&[0u64, 4, 0x10, 0x20, 0xf0, 0xf4, 0x100, 0x108, 0x10c, 0x120, 0x128, 0x12c, 0x140, 0x148]);
        if choice.number().is_multiple_of(2) {
            let value = match at {
                // Stays disabled: the clock stands still, and matches at once differ.
                0x10 => choice.number() & 2,
                // Without routes, which depend on the board, and 32-bit mode, in which QEMU keeps the upper halves.
                0x100 | 0x120 | 0x140 => choice.number() & 0x4e,
                _ => choice.number(),
            };
            log.note(format!("{at:#x} := {value:#x}"));
            qemu.memory_write(BASE + at, 4, value.into());
            memory.write(BASE + at, &value.to_le_bytes());
        } else {
            log.compare(format!("read {at:#x}"), read(at), qemu.memory_read(BASE + at, 4));
        }
    }
}
