//! The saved forms have not changed.

use bulkhead_device::{Device, Line};
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_saved_state::{SavedState, golden};
use bulkhead_timers::{Hpet, HpetLines, Pit, SavedComparator, SavedCounter, SavedHpet, SavedPit};

#[test]
fn pit() {
    let (_clock, reactor) = VirtualReactor::new(Time::from_nanos(5_000_000), 0).unwrap();
    let counter = SavedCounter {
        mode: 2,
        bcd: true,
        access: 3,
        gate: true,
        count: Some(4773),
        start: Some(17),
        held: Some(3),
        next: Some((99, 4790)),
        low_byte: Some(0x55),
        read_high: true,
        latch: Some(0x1234),
        status: Some(0xb4),
    };
    let counters = vec![counter.clone(), counter.clone(), counter];
    let saved = SavedPit { counters, control: 3, next_edge: Some(9563), line: true };
    let state = SavedState::encode("pit", 1, &saved).unwrap();
    golden::check("tests/golden/pit-1.state", state.body());
    let pit = Pit::restore("pit", &reactor, Line::unconnected(), &state).unwrap();
    assert_eq!(pit.lock().save().unwrap(), state);
}

#[test]
fn hpet() {
    let (_clock, reactor) = VirtualReactor::new(Time::from_nanos(5_000_000), 0).unwrap();
    let comparator = SavedComparator { config: 0x10c, value: 0x1_0000, period: 0x2_0000, due: Some(6_000_000) };
    let comparators = vec![comparator.clone(), comparator.clone(), comparator];
    let saved = SavedHpet { config: 3, status: 1, base: 0x1234_5678_9abc, anchor: 4_000_000, comparators };
    let state = SavedState::encode("hpet", 1, &saved).unwrap();
    golden::check("tests/golden/hpet-1.state", state.body());
    let lines = HpetLines {
        irq0: Line::unconnected(),
        irq8: Line::unconnected(),
        pins: std::array::from_fn(|_| Line::unconnected()),
    };
    assert_eq!(Hpet::restore("hpet", &reactor, lines, &state).unwrap().lock().save().unwrap(), state);
}
