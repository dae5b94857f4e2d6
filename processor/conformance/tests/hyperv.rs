//! What a signal and its completion cost: measured, printed, not judged.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "it measures real time")]

use bulkhead_conformance::{Bench, candidates, programs};
use std::time::Instant;

const ROUNDS: u32 = 10_000;

#[test]
fn a_signal_and_its_completion_go_round() {
    let program = programs().into_iter().find(|program| program.name == "hyperv_round_trip").expect("it is there");
    let (candidates, absent) = candidates();
    for reason in absent {
        eprintln!("skipped: {reason}");
    }
    for candidate in candidates {
        let mut bench = Bench::new(&*candidate.engine, &program).expect("a bench");
        let start = Instant::now();
        let outcome = bench.run();
        let each = start.elapsed() / ROUNDS;
        assert_eq!((outcome.reports, outcome.end.as_str()), (program.expect.clone(), "ended"));
        let imitates = if candidate.imitates { " (this host's KVM emulates guest kernel code)" } else { "" };
        println!("{}: signal and completion take {each:?}{imitates}", candidate.name());
    }
}
