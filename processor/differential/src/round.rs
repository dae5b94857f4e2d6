//! A round: many cases on both sides, in batches.

use std::collections::BTreeMap;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::case::layout::SLOTS;
use crate::minimise::describe;
use crate::{Case, Form, Generator, Host, Outcome, differences, minimise};

/// The side under test.
pub trait Executor {
    /// Puts the code of all these cases, at most [`crate::layout::SLOTS`], into place.
    fn load(&mut self, cases: &[Case]) -> Result<(), Box<dyn Error>>;

    /// Runs one of the loaded cases.
    fn run(&mut self, case: &Case) -> Result<Outcome, Box<dyn Error>>;
}

/// What a round found.
#[derive(Debug, Default)]
pub struct Round {
    /// Cases executed.
    pub cases: u64,
    /// Cases that ended in each exception; vector 3 is the regular end.
    pub exceptions: BTreeMap<u8, u64>,
    /// How many cases started with each form.
    pub covered: Vec<(Form, u64)>,
    /// Minimised reports of failures, at most `give_up` of them, one per first form.
    pub failures: Vec<String>,
    /// All failures.
    pub failed: u64,
}

/// Runs `count` cases from `seed` on: every form in turn comes first. Stops after `give_up` different failures.
pub fn run_round(
    generator: &mut Generator,
    host: &mut Host,
    executor: &mut dyn Executor,
    seed: u64,
    count: u64,
    give_up: usize,
) -> Result<Round, Box<dyn Error>> {
    let forms = generator.forms();
    let mut covered = vec![0; forms.len()];
    let mut failing = std::collections::BTreeSet::new();
    let mut round = Round::default();
    while round.cases < count && round.failures.len() < give_up {
        let size = (count - round.cases).min(SLOTS as u64);
        let cases: Vec<Case> = (0..size)
            .map(|slot| {
                let number = round.cases + slot;
                let form = (number % forms.len() as u64) as usize;
                let case = generator.case(seed.wrapping_add(number), slot as usize, forms[form]);
                covered[form] += u64::from(case.instructions.first().is_some_and(|i| i.code() == forms[form].code));
                case
            })
            .collect();
        let on_host = host.run(&cases)?;
        executor.load(&cases)?;
        // All of them first: minimising a failure overwrites other cases' code.
        let here: Vec<Outcome> = cases.iter().map(|case| run_guarded(executor, case)).collect::<Result<_, _>>()?;
        for ((case, on_host), here) in cases.iter().zip(&on_host).zip(&here) {
            *round.exceptions.entry(on_host.exception.vector).or_default() += 1;
            if !differences(case, on_host, here).is_empty() {
                round.failed += 1;
                if round.failures.len() < give_up {
                    let (small, report) = minimise(case.clone(), host, executor);
                    if failing.insert(small.instructions.first().map(|i| i.code())) {
                        round.failures.push(report);
                    }
                }
            }
        }
        round.cases += size;
    }
    round.covered = forms.into_iter().zip(covered).collect();
    Ok(round)
}

/// Runs a case; if the executor panics, its state is worth nothing, but the case is.
fn run_guarded(executor: &mut dyn Executor, case: &Case) -> Result<Outcome, Box<dyn Error>> {
    catch_unwind(AssertUnwindSafe(|| executor.run(case)))
        .unwrap_or_else(|_| Err("the executor panicked".into()))
        .map_err(|error| format!("{error}\n{}", describe(case)).into())
}
