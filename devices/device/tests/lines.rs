//! Lines reach their sink only by changes, gates are high while any input is, and the quiesce token fires once.

use bulkhead_device::{Line, LineInput, OrGate, QuiesceToken};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

#[derive(Default)]
struct Recorder(Vec<(u32, bool)>);

impl LineInput for Recorder {
    fn set_input(&mut self, input: u32, level: bool) {
        self.0.push((input, level));
    }
}

#[test]
fn only_changes_reach_the_sink() {
    let sink = Arc::new(Mutex::new(Recorder::default()));
    let line = Line::new(sink.clone(), 5);
    line.set(false);
    line.set(true);
    line.set(true);
    line.pulse();
    assert_eq!(sink.lock().0, [(5, true), (5, false)]);
    Line::unconnected().pulse();
}

#[test]
fn a_gate_is_high_while_any_input_is() {
    let sink = Arc::new(Mutex::new(Recorder::default()));
    let gate = OrGate::new(Line::new(sink.clone(), 9));
    let (one, two) = (gate.line(0), gate.line(63));
    one.set(true);
    two.set(true);
    one.set(false);
    assert_eq!(sink.lock().0, [(9, true)]);
    two.set(false);
    assert_eq!(sink.lock().0, [(9, true), (9, false)]);
    gate.line(64).set(true);
    assert_eq!(sink.lock().0.len(), 2);
}

#[test]
fn the_last_token_reports_quiet() {
    let fired = Arc::new(AtomicU32::new(0));
    let counter = fired.clone();
    let token = QuiesceToken::new(move || {
        counter.fetch_add(1, SeqCst);
    });
    let other = token.clone();
    drop(token);
    assert_eq!(fired.load(SeqCst), 0);
    drop(other);
    assert_eq!(fired.load(SeqCst), 1);
}
