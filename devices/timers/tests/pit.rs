//! The 8254 against its data sheet and the ways drivers use it, in virtual time.

use bulkhead_device::{Device, Line, LineInput, PortIo};
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use bulkhead_timers::Pit;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

#[derive(Default)]
struct Edges(Vec<u64>, Option<Reactor>);

impl LineInput for Edges {
    fn set_input(&mut self, _input: u32, level: bool) {
        if level {
            self.0.push(self.1.as_ref().unwrap().now().as_nanos());
        }
    }
}

struct Pc {
    clock: VirtualReactor,
    reactor: Reactor,
    pit: Arc<Mutex<Pit>>,
    edges: Arc<Mutex<Edges>>,
}

impl Pc {
    fn new() -> Pc {
        let (clock, reactor) = VirtualReactor::new(Time::from_nanos(123), 0).unwrap();
        let edges = Arc::new(Mutex::new(Edges(Vec::new(), Some(reactor.clone()))));
        let pit = Pit::new("pit", &reactor, Line::new(edges.clone(), 0));
        Pc { clock, reactor, pit, edges }
    }
    fn out(&self, port: u16, value: u8) {
        let (bank, offset) = if port == 0x61 { (Pit::CONTROL, 0) } else { (Pit::COUNTERS, port - 0x40) };
        self.pit.lock().port_write(bank, offset, 1, value.into());
    }
    fn inb(&self, port: u16) -> u8 {
        let (bank, offset) = if port == 0x61 { (Pit::CONTROL, 0) } else { (Pit::COUNTERS, port - 0x40) };
        self.pit.lock().port_read(bank, offset, 1) as u8
    }
    fn out2(&self) -> bool {
        self.inb(0x61) & 0x20 != 0
    }
    fn word(&self, port: u16) -> u16 {
        u16::from_le_bytes([self.inb(port), self.inb(port)])
    }
    /// Lets time pass, in ticks of the PIT.
    fn ticks(&mut self, ticks: u64) {
        let nanos = (ticks * 1_000_000_000).div_ceil(1_193_182);
        self.clock.advance_to(self.reactor.now() + Duration::from_nanos(nanos));
    }
    fn edges(&self) -> Vec<u64> {
        std::mem::take(&mut self.edges.lock().0)
    }
}

/// Linux: clock event in periodic mode with HZ=250.
#[test]
fn rate_generator_interrupts_at_its_rate() {
    let mut pc = Pc::new();
    pc.out(0x43, 0x34);
    pc.out(0x40, (4773 & 0xff) as u8);
    pc.out(0x40, (4773 >> 8) as u8);
    pc.edges();
    pc.clock.advance_to(Time::from_nanos(10_000_000_000));
    let edges = pc.edges();
    assert_eq!(edges.len(), 2499);
    let period = 4773.0 * 1e9 / 1_193_182.0;
    for (index, at) in edges.iter().enumerate() {
        assert!((*at as f64 - period * (index + 1) as f64).abs() < 3000.0, "edge {index} at {at}");
    }
    // Shutdown: mode 0 without a count.
    pc.out(0x43, 0x30);
    assert_eq!(pc.clock.next_deadline(), None, "no host work without a count");
}

/// Linux: pit_calibrate_tsc, and the same in SeaBIOS: counter 2, mode 0, gate up, wait for OUT.
#[test]
fn calibration_with_counter_2() {
    let mut pc = Pc::new();
    pc.out(0x61, pc.inb(0x61) & !2 | 1);
    pc.out(0x43, 0xb0);
    assert!(!pc.out2());
    pc.out(0x42, 0x9c);
    pc.out(0x42, 0x2e);
    pc.ticks(0x2e9c - 2);
    assert!(!pc.out2());
    pc.ticks(4);
    assert!(pc.out2(), "10 ms");
    pc.ticks(100_000);
    assert!(pc.out2());
    assert_eq!(pc.clock.next_deadline(), None);
}

/// Linux: pit_hpet_ptimer_calibrate's quick form reads the high byte again and again.
#[test]
fn quick_calibration_sees_the_high_byte_fall() {
    let mut pc = Pc::new();
    pc.out(0x61, 1);
    pc.out(0x43, 0xb0);
    pc.out(0x42, 0xff);
    pc.out(0x42, 0xff);
    pc.ticks(2);
    let mut last = 0xff;
    for expected in (0xf0..=0xfe).rev() {
        pc.ticks(256);
        pc.inb(0x42);
        last = pc.inb(0x42);
        assert_eq!(last, expected);
    }
    assert_eq!(last, 0xf0);
}

#[test]
fn latched_counts_stand_still_and_status_comes_first() {
    let mut pc = Pc::new();
    pc.out(0x43, 0x34);
    pc.out(0x40, 0);
    pc.out(0x40, 0);
    pc.ticks(1001);
    pc.out(0x43, 0x00);
    pc.ticks(500);
    pc.out(0x43, 0x00);
    assert_eq!(pc.word(0x40), 0u16.wrapping_sub(1000));
    assert_eq!(pc.word(0x40) & 0xfff0, 0u16.wrapping_sub(1500) & 0xfff0);
    // Read back status and count of counter 0: OUT high, count loaded, both bytes, mode 2.
    pc.out(0x43, 0xc2);
    assert_eq!(pc.inb(0x40), 0xb4);
    assert_eq!(pc.word(0x40) & 0xfff0, 0u16.wrapping_sub(1500) & 0xfff0);
}

#[test]
fn square_wave_counts_by_two_and_halves_the_period() {
    let mut pc = Pc::new();
    pc.out(0x61, 1);
    pc.out(0x43, 0xb6);
    pc.out(0x42, 100);
    pc.out(0x42, 0);
    pc.ticks(1);
    let mut high = 0;
    for _ in 0..1000 {
        high += u32::from(pc.out2());
        pc.ticks(1);
    }
    assert!((480..=520).contains(&high), "{high}");
    pc.out(0x43, 0x80);
    assert_eq!(pc.word(0x42) % 2, 0);
    assert!(!pc.pit.lock().speaker_on());
    pc.out(0x61, 3);
    assert!(pc.pit.lock().speaker_on());
    pc.out(0x61, 2);
    assert!(pc.out2(), "the gate keeps OUT high");
}

#[test]
fn a_new_count_of_a_running_rate_generator_waits_for_the_period() {
    let mut pc = Pc::new();
    pc.out(0x43, 0x34);
    pc.out(0x40, 0x10);
    pc.out(0x40, 0x27);
    pc.edges();
    pc.ticks(2000);
    pc.out(0x40, 0xe8);
    pc.out(0x40, 0x03);
    pc.ticks(10_500);
    let ticks: Vec<u64> = pc.edges().iter().map(|nanos| nanos * 1_193_182 / 1_000_000_000).collect();
    assert_eq!(ticks, [10_001, 11_001, 12_001]);
}

#[test]
fn one_shot_modes() {
    let mut pc = Pc::new();
    // Mode 4, as Linux's one-shot clock event: a strobe after the count.
    pc.out(0x43, 0x38);
    pc.edges();
    pc.out(0x40, 100);
    pc.out(0x40, 0);
    pc.ticks(200);
    assert_eq!(pc.edges().len(), 1);
    assert_eq!(pc.clock.next_deadline(), None);
    // Mode 1 on counter 2: triggered by the gate, again and again.
    pc.out(0x61, 0);
    pc.out(0x43, 0xb2);
    pc.out(0x42, 50);
    pc.out(0x42, 0);
    assert!(pc.out2());
    pc.out(0x61, 1);
    pc.ticks(10);
    assert!(!pc.out2());
    pc.out(0x61, 0);
    pc.out(0x61, 1);
    pc.ticks(45);
    assert!(!pc.out2());
    pc.ticks(10);
    assert!(pc.out2());
}

#[test]
fn decimal_counts() {
    let mut pc = Pc::new();
    pc.out(0x43, 0x31);
    pc.out(0x40, 0x34);
    pc.out(0x40, 0x12);
    pc.ticks(236);
    assert_eq!(pc.word(0x40), 0x0999);
    pc.ticks(1000);
    assert_eq!(pc.word(0x40), 0x9999);
}

#[test]
fn very_short_periods_do_not_flood_the_host() {
    let mut pc = Pc::new();
    pc.out(0x43, 0x34);
    pc.out(0x40, 2);
    pc.out(0x40, 0);
    pc.edges();
    pc.clock.advance_to(Time::from_nanos(10_000_000));
    let edges = pc.edges().len();
    assert!((300..=400).contains(&edges), "{edges}");
}

#[test]
fn restored_between_two_ticks_it_goes_on() {
    let mut pc = Pc::new();
    pc.out(0x43, 0x34);
    pc.out(0x40, 0x10);
    pc.out(0x40, 0x27);
    pc.out(0x43, 0xb6);
    pc.out(0x42, 7);
    pc.ticks(5000);
    let state = pc.pit.lock().save().unwrap();
    let edges = Arc::new(Mutex::new(Edges(Vec::new(), Some(pc.reactor.clone()))));
    let restored = Pit::restore("pit", &pc.reactor, Line::new(edges.clone(), 0), &state).unwrap();
    let other =
        Pc { clock: VirtualReactor::new(Time::ZERO, 0).unwrap().0, reactor: pc.reactor.clone(), pit: restored, edges };
    pc.edges();
    other.edges();
    pc.ticks(30_000);
    let edges = pc.edges();
    assert_eq!((edges.len(), edges), (3, other.edges()));
    for pc in [&pc, &other] {
        pc.out(0x42, 1);
    }
    assert_eq!(pc.pit.lock().save().unwrap(), other.pit.lock().save().unwrap());
}
