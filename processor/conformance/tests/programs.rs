//! Every program on every engine: once straight through, and (one VP, no clock) once more, taken apart and put
//! together again after each instruction. What this host's KVM cannot run is skipped with its reason and counted.

use bulkhead_conformance::{Bench, Candidate, Outcome, Program, candidates, programs};
use bulkhead_engine::{EngineError, EngineKind, Stop};

/// Instructions after which a stepped program counts as hanging.
const MOST_STEPS: u64 = 100_000;

#[derive(Default)]
struct Totals {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Totals {
    fn note(&mut self, name: &str, wanted: &Outcome, result: Result<Outcome, EngineError>) {
        match result {
            Ok(outcome) if outcome == *wanted => {
                self.passed += 1;
                println!("test {name} ... ok");
            }
            Ok(outcome) => {
                self.failed += 1;
                println!("test {name} ... FAILED\n  wanted {wanted:x?}\n  got    {outcome:x?}");
            }
            Err(error) => {
                self.failed += 1;
                println!("test {name} ... FAILED\n  {error}");
            }
        }
    }

    fn skip(&mut self, name: &str, reason: &str) {
        self.skipped += 1;
        println!("test {name} ... skipped: {reason}");
    }
}

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let (candidates, absent) = candidates();
    let mut totals = Totals::default();
    for reason in absent {
        totals.skip("all programs on kvm", &reason);
    }
    for candidate in &candidates {
        for program in programs().iter().filter(|program| program.name.contains(&filter)) {
            judge(candidate, program, &mut totals);
        }
    }
    let verdict = if totals.failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {} passed; {} failed; {} ignored (skipped, with reasons above); 0 measured; 0 filtered out",
        totals.passed, totals.failed, totals.skipped
    );
    std::process::exit(i32::from(totals.failed != 0));
}

fn judge(candidate: &Candidate, program: &Program, totals: &mut Totals) {
    let name = format!("{}::{}", candidate.name(), program.name);
    let stepped = format!("{name}::saved_and_restored_at_every_step");
    if let Some(reason) = candidate.skips(program) {
        totals.skip(&name, &reason);
        totals.skip(&stepped, &reason);
        return;
    }
    let wanted = Outcome { reports: program.expect.clone(), end: program.end.clone() };
    totals.note(&name, &wanted, straight(candidate, program));
    if program.vps > 1 || program.timed {
        return;
    }
    if candidate.engine.kind() == EngineKind::Kvm {
        // A new virtual machine costs ten milliseconds, and single steps of an emulating KVM are not exact.
        totals.skip(&stepped, "too slow on this engine; the soft engine's states are checked");
        return;
    }
    totals.note(&stepped, &wanted, restored_at_every_step(candidate, program));
}

fn straight(candidate: &Candidate, program: &Program) -> Result<Outcome, EngineError> {
    Ok(Bench::new(&*candidate.engine, program)?.run())
}

fn restored_at_every_step(candidate: &Candidate, program: &Program) -> Result<Outcome, EngineError> {
    let mut bench = Bench::new(&*candidate.engine, program)?;
    for step in 0..MOST_STEPS {
        let stop = bench.step()?;
        if stop == Stop::TripleFault {
            return Ok(Outcome { end: format!("{stop:?}"), ..bench.outcome() });
        }
        if bench.is_over() {
            return Ok(bench.outcome());
        }
        // Loops of thousands of rounds are taken apart only now and then.
        if step < 200 || step % 97 == 0 {
            bench = bench.save_and_restore(&*candidate.engine)?;
        }
    }
    Ok(bench.outcome())
}
