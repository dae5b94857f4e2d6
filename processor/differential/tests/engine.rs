//! The software engine against the host processor: every unprivileged instruction form.
//!
//! `BULKHEAD_SEED` and `BULKHEAD_CASES` choose what is run; `BULKHEAD_LONG=1` runs 50 million cases from a random seed.

use bulkhead_differential::{EngineExecutor, Form, Generator, Host, Mode, Round, run_round};
use bulkhead_soft::{Options, SoftEngine};

/// Cases in every normal run.
const CASES: u64 = 200_000;
/// Cases in a long run.
const LONG_CASES: u64 = 50_000_000;
/// Different failures to collect and minimise before giving up.
const ENOUGH: usize = 12;
/// Both cores of the smallest machine that runs the tests.
const THREADS: u64 = 2;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn one_thread(options: Options, seed: u64, count: u64) -> Round {
    let mut host = Host::new().unwrap();
    if !host.supports(Mode::Segmented) {
        eprintln!("skipped: 16-bit segments, because the host's kernel has no modify_ldt");
    }
    let mut executor = EngineExecutor::new(&SoftEngine::with_options(options)).unwrap();
    let features = executor.features().clone();
    let only = std::env::var("BULKHEAD_FORMS").ok();
    let wanted = |form: &Form| {
        let name = format!("{:?}", form.code);
        host.supports(form.mode)
            && features.allows(form.code)
            && only.as_ref().is_none_or(|only| name.starts_with(only.as_str()))
    };
    let mut generator = Generator::new(wanted);
    match run_round(&mut generator, &mut host, &mut executor, seed, count, ENOUGH) {
        Ok(round) => round,
        Err(error) => panic!("{error}"),
    }
}

fn random_seed() -> u64 {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    u32::from_le_bytes(bytes).into()
}

#[test]
fn the_interpreter_does_what_the_processor_does() {
    judge(Options::INTERPRETER);
}

#[test]
fn translated_code_does_what_the_processor_does() {
    judge(Options::EAGER);
}

fn judge(options: Options) {
    let long = std::env::var_os("BULKHEAD_LONG").is_some();
    let seed = setting("BULKHEAD_SEED").unwrap_or_else(|| if long { random_seed() } else { 1 });
    let count = setting("BULKHEAD_CASES").unwrap_or(if long { LONG_CASES } else { CASES }) / THREADS;
    println!("BULKHEAD_SEED={seed}: {count} cases on each of {THREADS} threads");
    let rounds: Vec<Round> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|n| scope.spawn(move || one_thread(options, (seed * THREADS + n) << 32, count))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for round in &rounds {
        println!("{} cases, {} forms, exceptions {:?}", round.cases, round.covered.len(), round.exceptions);
    }
    let failed: u64 = rounds.iter().map(|round| round.failed).sum();
    let reports: Vec<_> = rounds.iter().flat_map(|round| &round.failures).map(String::as_str).collect();
    assert!(failed == 0, "{failed} failures, seed {seed}:\n{}", reports.join("\n"));
    for (form, count) in rounds.iter().flat_map(|round| &round.covered) {
        assert!(*count > 0, "{form:?} was never generated");
    }
}
