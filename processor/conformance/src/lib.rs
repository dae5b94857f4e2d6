//! The conformance suite: tiny guest programs, run on every engine, that report what they saw.
//!
//! A program is one file in `programs/`: GNU assembler, loaded at 0x8000 and entered in the mode that its head names.
//! The head is a block of comments:
//!
//! ```text
//! # mode: long                     real | protected | paged | pae | long
//! # vps: 2                         1 if absent
//! # expect: 0x11 0x22              everything that is written to port 0x80, in order
//! # ends: TripleFault            `ended` (port 0xf4) if absent
//! # timed: by the APIC timer    reports depend on real time: not stepped
//! # hyperv: yes                  with the Hyper-V interface (see `src/hyperv.rs`)
//! # needs: INT n at CPL 0          what an emulating KVM cannot do
//! ```
//!
//! Ports: `0x80` reports a dword, `0xf4` ends the program, `0xa0`–`0xa4` ask the test for interrupts (see [`Bench`]),
//! `0x90` reads back what was last written to it. Guest-physical `0xd0000000` upwards is MMIO: reads give the address.
//!
//! `programs/real.inc`, `protected.inc` and `long.inc` hold the entry jump and 256 exception stubs: an exception
//! reports `0x0e000000 | vector`, its error code, and CR2 for a page fault, and goes on at the address in `recover`.

mod bench;
mod hyperv;
mod program;
mod start;

pub use bench::{Bench, Outcome};
pub use program::{Mode, Program, programs};

use std::sync::Arc;

use bulkhead_engine::{Engine, EngineKind};
use bulkhead_kvm::{KvmEngine, Verdict};
use bulkhead_soft::{Options, SoftEngine};

/// An engine to judge, and how far this host lets it go.
pub struct Candidate {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// Name for reports.
    pub name: &'static str,
    /// The host's KVM only imitates a processor: programs with a `needs` line are skipped on it.
    pub imitates: bool,
}

impl Candidate {
    /// Name for reports.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Why this candidate cannot be judged by a program, if so.
    pub fn skips(&self, program: &Program) -> Option<String> {
        let needs = program.needs.as_ref().filter(|_| self.imitates)?;
        Some(format!("the KVM of this host emulates guest kernel code, which lacks: {needs}"))
    }
}

/// The engines of this host, and for those that cannot be had the reason.
pub fn candidates() -> (Vec<Candidate>, Vec<String>) {
    let tiers = [("soft", Options::INTERPRETER), ("soft-translated", Options::EAGER)];
    let soft =
        |(name, options)| Candidate { engine: Arc::new(SoftEngine::with_options(options)), name, imitates: false };
    let mut found = Vec::from(tiers.map(soft));
    let mut absent = Vec::new();
    match KvmEngine::open() {
        Ok(engine) => {
            let imitates = !matches!(bulkhead_kvm::probe(), Verdict::Hardware);
            found.push(Candidate { engine: Arc::new(engine), name: EngineKind::Kvm.name(), imitates });
        }
        Err(error) => absent.push(format!("{}: {error}", EngineKind::Kvm.name())),
    }
    (found, absent)
}
