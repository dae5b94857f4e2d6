//! The clock: formats, setting it as Linux does, flags, the three interrupts, host wake-ups, memory, restore.

use bulkhead_device::{Device, Line, LineInput, PortIo};
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use bulkhead_rtc::Rtc;
use parking_lot::Mutex;
use proptest::prelude::*;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

#[derive(Default)]
struct Irq {
    level: bool,
    rises: u32,
}

impl LineInput for Irq {
    fn set_input(&mut self, _input: u32, level: bool) {
        self.level = level;
        self.rises += u32::from(level);
    }
}

struct Pc {
    clock: VirtualReactor,
    reactor: Reactor,
    rtc: Arc<Mutex<Rtc>>,
    irq: Arc<Mutex<Irq>>,
}

/// 2026-11-24 20:34:20.25 UTC.
const WALL: Duration = Duration::from_millis(1_795_552_460_250);

impl Pc {
    fn new() -> Pc {
        Pc::at(WALL)
    }
    fn at(wall: Duration) -> Pc {
        let (clock, reactor) = VirtualReactor::new(Time::from_nanos(777), 0).unwrap();
        let irq = Arc::new(Mutex::new(Irq::default()));
        let rtc = Rtc::new("rtc", &reactor, Line::new(irq.clone(), 8), wall);
        Pc { clock, reactor, rtc, irq }
    }
    fn write(&self, index: u8, value: u8) {
        let mut rtc = self.rtc.lock();
        rtc.port_write(Rtc::LOW, 0, 1, index.into());
        rtc.port_write(Rtc::LOW, 1, 1, value.into());
    }
    fn read(&self, index: u8) -> u8 {
        let mut rtc = self.rtc.lock();
        rtc.port_write(Rtc::LOW, 0, 1, index.into());
        rtc.port_read(Rtc::LOW, 1, 1) as u8
    }
    /// Century, year, month, day, hour, minute, second.
    fn time(&self) -> [u8; 7] {
        [0x32, 9, 8, 7, 4, 2, 0].map(|index| self.read(index))
    }
    fn pass(&mut self, millis: u64) {
        self.clock.advance_to(self.reactor.now() + Duration::from_millis(millis));
    }
}

#[test]
fn shows_the_wall_clock_in_all_formats() {
    let mut pc = Pc::new();
    assert_eq!(pc.time(), [0x20, 0x26, 0x11, 0x24, 0x20, 0x34, 0x20]);
    assert_eq!(pc.read(6), 3, "a Tuesday");
    assert_eq!((pc.read(0x0d), pc.read(0x0a) & 0x7f), (0x80, 0x26));
    pc.write(0x0b, 0x06);
    assert_eq!(pc.time(), [20, 26, 11, 24, 20, 34, 20]);
    pc.write(0x0b, 0x00);
    assert_eq!(pc.read(4), 0x88, "8 PM");
    pc.pass(750);
    assert_eq!(pc.read(0), 0x21);
    pc.pass(4 * 3_600_000);
    assert_eq!((pc.read(4), pc.read(7)), (0x12, 0x25), "midnight is 12 AM");
    assert_eq!(pc.clock.next_deadline(), None);
}

#[test]
fn update_in_progress_comes_before_the_second() {
    let mut pc = Pc::new();
    assert_eq!(pc.read(0x0a) & 0x80, 0);
    pc.clock.advance_to(pc.reactor.now() + Duration::from_micros(749_800));
    assert_eq!((pc.read(0x0a) & 0x80, pc.read(0)), (0x80, 0x20));
    pc.clock.advance_to(pc.reactor.now() + Duration::from_micros(200));
    assert_eq!((pc.read(0x0a) & 0x80, pc.read(0)), (0, 0x21));
}

/// mc146818_set_time: SET, divider reset, fields, SET off, divider on; the next second begins half a second later.
#[test]
fn set_as_linux_does() {
    let mut pc = Pc::new();
    let (a, b) = (pc.read(0x0a), pc.read(0x0b));
    pc.write(0x0b, b | 0x80);
    pc.write(0x0a, a | 0x70);
    for (index, value) in [(9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x59), (0x32, 0x19)] {
        pc.write(index, value);
    }
    pc.pass(5_000);
    assert_eq!(pc.time(), [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59]);
    pc.write(0x0b, b);
    pc.write(0x0a, a);
    pc.pass(499);
    assert_eq!(pc.read(0), 0x59);
    pc.pass(2);
    assert_eq!(pc.time(), [0x20, 0, 1, 1, 0, 0, 0]);
    assert_eq!(pc.rtc.lock().seconds(), 946_684_800);
}

#[test]
fn flags_are_set_without_interrupts_and_cleared_by_reading() {
    let mut pc = Pc::new();
    pc.write(1, 0xff);
    pc.write(3, 0xff);
    pc.write(5, 0xff);
    pc.read(0x0c);
    assert_eq!(pc.read(0x0c), 0);
    pc.pass(1_000);
    assert_eq!(pc.read(0x0c), 0x70);
    assert_eq!(pc.read(0x0c), 0);
    assert_eq!((pc.irq.lock().rises, pc.clock.next_deadline()), (0, None));
}

#[test]
fn update_interrupts_wait_to_be_read() {
    let mut pc = Pc::new();
    pc.write(0x0b, 0x12);
    pc.pass(10_000);
    assert!(pc.irq.lock().level);
    assert_eq!(pc.clock.next_deadline(), None, "one is pending");
    for _ in 0..5 {
        assert_eq!(pc.read(0x0c) & 0x90, 0x90);
        assert!(!pc.irq.lock().level);
        pc.pass(1_000);
    }
    assert_eq!(pc.irq.lock().rises, 6);
}

#[test]
fn periodic_interrupts_have_their_rate() {
    for (rate, hertz) in [(3u8, 8192u32), (6, 1024), (15, 2), (1, 256), (2, 128)] {
        let mut pc = Pc::new();
        pc.write(0x0a, 0x20 | rate);
        pc.write(0x0b, 0x42);
        pc.read(0x0c);
        let mut count = 0;
        let end = pc.reactor.now() + Duration::from_secs(4);
        while let Some(at) = pc.clock.next_deadline().filter(|at| *at <= end) {
            pc.clock.advance_to(at);
            count += u32::from(pc.read(0x0c) & 0x40 != 0);
        }
        assert!(count.abs_diff(4 * hertz) <= 1, "rate {rate}: {count}");
    }
}

#[test]
fn alarms_match_hour_minute_second_and_wild_cards() {
    let mut pc = Pc::new();
    for (index, value) in [(5, 0x06), (3, 0x30), (1, 0x00), (0x0b, 0x22)] {
        pc.write(index, value);
    }
    let until = 9 * 3600 + 55 * 60 + 40;
    pc.pass(until * 1000 - 300);
    assert!(!pc.irq.lock().level);
    pc.pass(100);
    assert!(pc.irq.lock().level);
    assert_eq!(pc.read(4), 0x06);
    pc.read(0x0c);
    pc.pass(86_400_000);
    assert_eq!(pc.read(0x0c) & 0xa0, 0xa0, "every day");
    // Every minute at second 5.
    for (index, value) in [(5, 0xff), (3, 0xc0), (1, 0x05)] {
        pc.write(index, value);
    }
    for _ in 0..3 {
        pc.pass(60_000);
        assert_eq!((pc.read(0x0c) & 0xa0, pc.clock.next_deadline().is_some()), (0xa0, true));
    }
    // A minute that never comes.
    pc.write(3, 0x75);
    assert_eq!(pc.clock.next_deadline(), None);
}

#[test]
fn memory_has_two_banks_of_128_bytes() {
    let pc = Pc::new();
    pc.write(0x0f, 0x55);
    pc.write(0x7f, 0xaa);
    let mut rtc = pc.rtc.lock();
    for (index, value) in [(0x0fu32, 0x11u32), (0x80, 0x22)] {
        rtc.port_write(Rtc::HIGH, 0, 1, index);
        rtc.port_write(Rtc::HIGH, 1, 1, value);
    }
    assert_eq!([0x0f, 0x7f, 0x8f, 0x80].map(|index| rtc.memory(index)), [0x55, 0xaa, 0x11, 0x22]);
    assert_eq!(rtc.port_read(Rtc::LOW, 0, 1), 0xff);
    rtc.set_memory(0x5f, 3);
    rtc.set_memory(0x0b, 0xff);
    drop(rtc);
    assert_eq!((pc.read(0xdf), pc.read(0x0b)), (3, 2), "bit 7 of the index is the NMI mask");
    pc.write(0x0b, 0x7a);
    pc.rtc.lock().reset();
    assert_eq!((pc.read(0x0b), pc.read(0x0f)), (2, 0x55));
}

#[test]
fn restored_with_an_armed_alarm_it_goes_on_and_can_catch_up() {
    let mut pc = Pc::new();
    for (index, value) in [(5, 0xff), (3, 0xff), (1, 0x30), (0x0b, 0x22)] {
        pc.write(index, value);
    }
    pc.pass(3_333);
    let state = pc.rtc.lock().save().unwrap();
    let irq = Arc::new(Mutex::new(Irq::default()));
    let other = Rtc::restore("rtc", &pc.reactor, Line::new(irq.clone(), 8), &state).unwrap();
    pc.pass(7_000);
    assert!(pc.irq.lock().level && irq.lock().level);
    assert_eq!(pc.rtc.lock().save().unwrap(), other.lock().save().unwrap());
    let before = other.lock().seconds();
    other.lock().advance(Duration::from_millis(3_600_900));
    assert!((3600..=3601).contains(&(other.lock().seconds() - before)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// The host's date command is the oracle for the calendar.
    #[test]
    fn dates_agree_with_the_host(seconds in 0u64..253_402_300_800) {
        let pc = Pc::at(Duration::from_secs(seconds));
        let shown = pc.time().map(|byte| format!("{byte:02x}"));
        let shown = format!("{}{}-{}-{} {}:{}:{} {}", shown[0], shown[1], shown[2], shown[3], shown[4], shown[5],
            shown[6], pc.read(6) - 1);
        let output = Command::new("date").args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%d %H:%M:%S %w"]).output();
        let Ok(output) = output else {
            eprintln!("skipped: no date command");
            return Ok(());
        };
        let expected = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        prop_assert_eq!(shown, expected);
        // And back: setting the same fields gives the same time.
        pc.write(0, pc.read(0));
        prop_assert_eq!(pc.rtc.lock().seconds(), seconds as i64);
    }
}
