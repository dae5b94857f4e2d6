//! Native stubs against the host processor: every form that they cover.

use bulkhead_differential::{Generator, Host, StubExecutor, run_round};

#[test]
fn stubs_do_what_the_processor_does() {
    let setting = |name: &str, default| std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default);
    let seed = setting("BULKHEAD_SEED", 1);
    let long = std::env::var_os("BULKHEAD_LONG").is_some();
    let count = setting("BULKHEAD_CASES", if long { 2_000_000 } else { 100_000 });
    let mut host = Host::new().unwrap();
    let mut executor = StubExecutor::new().unwrap();
    let mut generator = Generator::new(StubExecutor::accepts);
    let round = run_round(&mut generator, &mut host, &mut executor, seed << 32, count, 8).unwrap();
    println!("seed {seed}: {} cases, {} forms, exceptions {:?}", round.cases, round.covered.len(), round.exceptions);
    let missed: Vec<_> = round.covered.iter().filter(|(_, count)| *count == 0).collect();
    assert!(round.failures.is_empty(), "{} failures:\n{}", round.failed, round.failures.join("\n"));
    assert!(missed.is_empty(), "never generated: {missed:?}");
}
