//! The HPET as Linux programs it: detection, legacy replacement, periodic, one-shot and level interrupts, restore.

use bulkhead_device::{Device, Line, LineInput, MmioBus};
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use bulkhead_timers::{Hpet, HpetLines};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

#[derive(Default)]
struct Edges(Vec<(u32, bool)>);

impl LineInput for Edges {
    fn set_input(&mut self, input: u32, level: bool) {
        self.0.push((input, level));
    }
}

struct Pc {
    clock: VirtualReactor,
    reactor: Reactor,
    hpet: Arc<Mutex<Hpet>>,
    memory: MmioBus,
    edges: Arc<Mutex<Edges>>,
}

const BASE: u64 = 0xfed0_0000;
const ENABLE: u32 = 1;
const LEGACY: u32 = 2;

fn lines(edges: &Arc<Mutex<Edges>>) -> HpetLines {
    let line = |input| Line::new(edges.clone(), input);
    HpetLines { irq0: line(0), irq8: line(8), pins: [line(20), line(21), line(22), line(23)] }
}

impl Pc {
    fn new() -> Pc {
        let (clock, reactor) = VirtualReactor::new(Time::from_nanos(1_234_567), 0).unwrap();
        let edges = Arc::new(Mutex::new(Edges::default()));
        let hpet = Hpet::new("hpet", &reactor, lines(&edges));
        let memory = MmioBus::new();
        memory.map(BASE..BASE + 0x400, &hpet, 0).unwrap();
        Pc { clock, reactor, hpet, memory, edges }
    }
    fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.memory.read(BASE + offset, &mut data);
        u32::from_le_bytes(data)
    }
    fn write(&self, offset: u64, value: u32) {
        self.memory.write(BASE + offset, &value.to_le_bytes());
    }
    fn pass(&mut self, nanos: u64) {
        self.clock.advance_to(self.reactor.now() + Duration::from_nanos(nanos));
    }
    /// Rising edges since the last call, by line.
    fn rises(&self) -> Vec<u32> {
        self.edges.lock().0.drain(..).filter_map(|(input, level)| level.then_some(input)).collect()
    }
}

#[test]
fn detection() {
    let mut pc = Pc::new();
    assert_eq!((pc.read(0), pc.read(4)), (0x8086_a201, 10_000_000));
    assert_eq!((pc.read(0x100), pc.read(0x104)), (0x30, 0x00f0_0000));
    pc.write(0x10, ENABLE);
    let before = pc.read(0xf0);
    pc.pass(1_000_000);
    assert_eq!(pc.read(0xf0) - before, 100_000);
    // A halted counter stands still and can be written.
    pc.write(0x10, 0);
    pc.write(0xf0, 5);
    pc.write(0xf4, 7);
    pc.pass(1_000_000);
    let mut data = [0; 8];
    pc.memory.read(BASE + 0xf0, &mut data);
    assert_eq!(u64::from_le_bytes(data), 7 << 32 | 5);
}

/// hpet_clkevt_set_state_periodic: value set, first match, then the period.
#[test]
fn periodic_in_legacy_mode() {
    let mut pc = Pc::new();
    let mut pit = Some(Line::new(pc.hpet.clone(), Hpet::PIT));
    pit.as_ref().unwrap().pulse();
    assert_eq!(pc.rises(), [0]);
    pc.write(0x10, ENABLE | LEGACY);
    let counter = pc.read(0xf0);
    pc.write(0x100, 0x104 | 0x8 | 0x40);
    pc.write(0x108, counter + 400_000);
    pc.write(0x108, 400_000);
    pc.pass(40_000_000);
    assert_eq!(pc.rises(), [0; 10]);
    pit.take().unwrap().pulse();
    assert!(pc.rises().is_empty(), "the PIT is off IRQ 0");
    assert_eq!(pc.read(0x108), counter + 4_400_000);
    pc.write(0x100, 0);
    assert_eq!(pc.clock.next_deadline(), None);
}

#[test]
fn one_shot_matches_once_and_again_after_a_wrap_of_32_bits() {
    let mut pc = Pc::new();
    pc.write(0x10, ENABLE | LEGACY);
    pc.write(0x120, 0x104);
    let counter = pc.read(0xf0);
    pc.write(0x128, counter + 1000);
    pc.pass(9_990);
    assert!(pc.rises().is_empty());
    pc.pass(10);
    assert_eq!(pc.rises(), [8]);
    pc.pass(42_000_000_000);
    assert!(pc.rises().is_empty());
    pc.pass(1_000_000_000);
    assert_eq!(pc.rises(), [8]);
}

#[test]
fn level_interrupts_stay_until_the_status_is_cleared() {
    let mut pc = Pc::new();
    pc.write(0x10, ENABLE);
    pc.write(0x140, 0x102 | 4 | 8 | 0x40 | 21 << 9);
    assert_eq!(pc.read(0x140), 0x30 | 0x102 | 4 | 8 | 0x40 | 21 << 9);
    pc.write(0x148, pc.read(0xf0) + 100);
    pc.write(0x148, 100);
    pc.pass(30_000);
    assert_eq!(pc.edges.lock().0, [(21, true)]);
    assert_eq!(pc.read(0x20), 4);
    assert_eq!(pc.clock.next_deadline(), None, "nothing to wait for until it is answered");
    pc.write(0x20, 4);
    pc.pass(30_000);
    assert_eq!(pc.edges.lock().0, [(21, true), (21, false), (21, true)]);
    // A pin that a comparator cannot use is not taken.
    pc.write(0x140, 4 | 5 << 9);
    assert_eq!(pc.read(0x140) >> 9 & 0x1f, 21);
    assert_eq!(pc.edges.lock().0.len(), 4, "no level any more");
}

#[test]
fn without_interrupts_the_host_is_left_alone() {
    let mut pc = Pc::new();
    pc.write(0x10, ENABLE);
    pc.write(0x100, 0x108 | 0x40);
    pc.write(0x108, 1000);
    pc.write(0x108, 1000);
    assert_eq!(pc.clock.next_deadline(), None);
    pc.pass(1_000_000);
    assert_eq!(pc.read(0x108), 101_000, "the comparator goes on all the same");
}

#[test]
fn restored_between_two_matches_it_goes_on() {
    let mut pc = Pc::new();
    pc.write(0x10, ENABLE | LEGACY);
    pc.write(0x100, 0x104 | 0x8 | 0x40);
    pc.write(0x108, pc.read(0xf0) + 5000);
    pc.write(0x108, 7000);
    pc.write(0x120, 0x106);
    pc.write(0x128, pc.read(0xf0) + 30_000);
    pc.pass(87_654);
    pc.rises();
    let state = pc.hpet.lock().save().unwrap();
    let edges = Arc::new(Mutex::new(Edges::default()));
    let restored = Hpet::restore("hpet", &pc.reactor, lines(&edges), &state).unwrap();
    pc.pass(1_000_000);
    let rises = pc.rises();
    assert_eq!(rises.iter().filter(|line| **line == 8).count(), 1);
    let other: Vec<u32> = edges.lock().0.drain(..).filter_map(|(input, level)| level.then_some(input)).collect();
    assert_eq!(rises, other);
    assert_eq!(pc.hpet.lock().save().unwrap(), restored.lock().save().unwrap());
}
