//! Random accesses compared with QEMU's clock, while time stands still.

use bulkhead_device::{Line, PortBus};
use bulkhead_qemu_oracle::{Choice, Log, Qemu};
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_rtc::Rtc;
use std::time::Duration;

#[test]
fn registers_and_formats() {
    let Some(mut qemu) = Qemu::start() else { return };
    let (_clock, reactor) = VirtualReactor::new(Time::ZERO, 0).unwrap();
    let (ports, rtc) =
        (PortBus::new(), Rtc::new("rtc", &reactor, Line::unconnected(), Duration::from_secs(1_795_552_460)));
    ports.map(0x70..=0x71, &rtc, Rtc::LOW).unwrap();
    let (mut choice, mut log) = (Choice::new(0x146818), Log::default());
    let set = |qemu: &mut Qemu, log: &mut Log, index: u32, value: u32| {
        log.note(format!("[{index:#x}] := {value:#x}"));
        for (port, value) in [(0x70, index), (0x71, value)] {
            qemu.port_write(port, 1, value);
            ports.write(port, 1, value);
        }
    };
    let get = |qemu: &mut Qemu, index: u32| {
        qemu.port_write(0x70, 1, index);
        ports.write(0x70, 1, index);
        (u64::from(ports.read(0x71, 1)), u64::from(qemu.port_read(0x71, 1)))
    };
    let time = [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32];
    for index in time {
        let (ours, theirs) = get(&mut qemu, index);
        log.compare(format!("[{index:#x}]"), ours, theirs);
    }
    for round in 0..600 {
        // Set a valid time in a random format, with the clock stopped, then read it in another format.
        let format = choice.of(&[0, 2, 4, 6]);
        set(&mut qemu, &mut log, 0x0b, 0x80 | format);
        let bcd = |number: u32| if format & 4 == 0 { number / 10 * 16 + number % 10 } else { number };
        let hour = match (format & 2, choice.number() % 12 + 1) {
            (0, hour) => bcd(hour) | choice.of(&[0, 0x80]),
            (_, hour) => bcd(hour + choice.of(&[0, 11])),
        };
        let values =
            [choice.number() % 60, choice.number() % 60, 0, 0, choice.number() % 28 + 1, choice.number() % 12 + 1];
        for (index, value) in
            [(0, values[0]), (2, values[1]), (7, values[4]), (8, values[5]), (9, choice.number() % 100)]
        {
            set(&mut qemu, &mut log, index, bcd(value));
        }
        // Before 1970 QEMU rounds down to the wrong second.
        set(&mut qemu, &mut log, 0x32, bcd(20));
        set(&mut qemu, &mut log, 4, hour);
        set(&mut qemu, &mut log, 0x0b, format);
        let other = choice.of(&[0, 2, 4, 6]);
        set(&mut qemu, &mut log, 0x0b, other);
        let (a, b) = (choice.of(&[0x26, 0x20, 0x2f]), choice.number() & 0x0f & !6 | other);
        set(&mut qemu, &mut log, 0x0a, a);
        set(&mut qemu, &mut log, 0x0b, b);
        let alarm = choice.of(&[1, 3, 5, 0x0d, 0x0e, 0x40]);
        set(&mut qemu, &mut log, alarm, choice.number() & 0xff);
        // The day of the week is not compared: QEMU shows what was written, ours follows from the date.
        for index in [0, 2, 4, 7, 8, 9, 0x32, 0x0a, 0x0b, 0x0d, alarm] {
            let (ours, theirs) = get(&mut qemu, index);
            log.compare(format!("round {round}: [{index:#x}]"), ours, theirs);
        }
    }
}
