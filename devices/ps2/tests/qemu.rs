//! Random commands compared with QEMU's keyboard controller, keyboard and mouse.

use bulkhead_device::{Line, PortBus, PowerRequest, PowerSink};
use bulkhead_ps2::Ps2;
use bulkhead_qemu_oracle::{Choice, Log, Qemu};
use parking_lot::Mutex;
use std::sync::Arc;

struct Nowhere;

impl PowerSink for Nowhere {
    fn request(&self, _request: PowerRequest) {}
}

struct Both {
    qemu: Qemu,
    ports: PortBus,
    log: Log,
}

impl Both {
    fn out(&mut self, port: u16, value: u32) {
        self.log.note(format!("out {port:#x} {value:#x}"));
        self.qemu.port_write(port, 1, value);
        self.ports.write(port, 1, value);
    }
    /// Reads everything there is, status before each byte.
    fn drain(&mut self) {
        for _ in 0..64 {
            // Not compared: the last write, and the system flag, which in QEMU does not follow the command byte.
            let (ours, theirs) = (self.ports.read(0x64, 1) & !0xc, self.qemu.port_read(0x64, 1) & !0xc);
            self.log.compare("status".into(), ours.into(), theirs.into());
            if ours & 1 == 0 {
                return;
            }
            let (ours, theirs) = (self.ports.read(0x60, 1), self.qemu.port_read(0x60, 1));
            self.log.compare("data".into(), ours.into(), theirs.into());
        }
        panic!("data without end");
    }
}

#[test]
fn commands() {
    let Some(qemu) = Qemu::start() else { return };
    let ps2 = Arc::new(Mutex::new(Ps2::new("ps2", Line::unconnected(), Line::unconnected(), Arc::new(Nowhere))));
    let ports = PortBus::new();
    ports.map(0x60..=0x60, &ps2, Ps2::DATA).unwrap();
    ports.map(0x64..=0x64, &ps2, Ps2::COMMAND).unwrap();
    ports.map(0x92..=0x92, &ps2, Ps2::PORT_92).unwrap();
    let (mut both, mut choice) = (Both { qemu, ports, log: Log::default() }, Choice::new(0x8042));
    both.drain();
    both.out(0x64, 0xaa);
    both.drain();
    for round in 0..3000 {
        both.log.note(format!("round {round}"));
        match choice.number() % 6 {
            0 => {
                let command = choice.of(&[0x20, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xad, 0xae, 0xc0]);
                both.out(0x64, command);
            }
            1 => {
                // The command byte, and bytes that seem to come from the devices.
                let (command, value) =
                    choice.of(&[(0x60, 0x03), (0x60, 0x47), (0x60, 0x65), (0xd2, 0x12), (0xd3, 0x34)]);
                both.out(0x64, command);
                both.out(0x60, value);
            }
            2 => {
                let command = choice.of(&[0xee, 0xf2, 0xf4, 0xf5, 0xf6, 0xff]);
                both.out(0x60, command);
            }
            3 => {
                let (command, value) = choice.of(&[(0xed, 2), (0xed, 7), (0xf3, 0x20), (0xf0, 1), (0xf0, 2)]);
                both.out(0x60, command);
                both.drain();
                both.out(0x60, value);
            }
            4 => {
                let command = choice.of(&[0xe6, 0xe7, 0xe9, 0xea, 0xf2, 0xf4, 0xf5, 0xf6, 0xff]);
                both.out(0x64, 0xd4);
                both.out(0x60, command);
            }
            _ => {
                // Among them the sequences that make it a wheel mouse, always whole.
                let bytes: &[u32] = choice.of(&[
                    &[0xe8, 1],
                    &[0xe8, 3],
                    &[0xf3, 80],
                    &[0xf3, 200, 0xf3, 100, 0xf3, 80],
                    &[0xf3, 200, 0xf3, 200, 0xf3, 80],
                ]);
                for byte in bytes {
                    both.out(0x64, 0xd4);
                    both.out(0x60, *byte);
                    both.drain();
                }
            }
        }
        both.drain();
    }
}
