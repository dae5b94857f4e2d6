//! The parts of the contract that no guest program can see: kicks, memory maps, dirty log, limits, translation.

#![allow(clippy::disallowed_methods, reason = "tests drive VPs from threads of their own")]

use std::sync::Arc;

use bulkhead_conformance::{Bench, Candidate, Program, candidates, programs};
use bulkhead_engine::{Access, EngineKind, Partition, RunLimit, Stop, VpExits, VpState, gpr};

/// Runs a check on every engine of this host.
fn on_each_engine(check: impl Fn(&Candidate)) {
    let (candidates, absent) = candidates();
    for reason in absent {
        eprintln!("skipped: {reason}");
    }
    candidates.iter().for_each(check);
}

fn program(name: &str) -> Program {
    programs().into_iter().find(|program| program.name == name).expect("the program is in programs/")
}

/// A long-mode program made of these bytes.
fn code(bytes: &'static [u8]) -> Program {
    Program { code: bytes, ..program("long_ports") }
}

/// Exits that nobody answers; MMIO writes are noted, and kick the VP if there is something to kick.
#[derive(Default)]
struct Exits {
    written: Vec<u64>,
    kicks: Option<Arc<dyn Partition>>,
}

impl VpExits for Exits {
    fn port_in(&mut self, _: u16, _: u8) -> u32 {
        u32::MAX
    }
    fn port_out(&mut self, _: u16, _: u8, _: u32) {}
    fn mmio_read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&mut self, gpa: u64, _: &[u8]) {
        self.written.push(gpa);
        if let Some(partition) = &self.kicks {
            partition.kick(0);
        }
    }
    fn msr_read(&mut self, _: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _: u32, _: u64) -> Option<()> {
        None
    }
    fn acknowledge_ext_int(&mut self) -> Option<u8> {
        None
    }
    fn end_of_interrupt(&mut self, _: u8) {}
}

/// `jmp .`
const LOOP: &[u8] = &[0xeb, 0xfe];
/// `mov qword [0x180000], 1` and `jmp .`
const STORE: &[u8] = &[0x48, 0xc7, 0x04, 0x25, 0, 0, 0x18, 0, 1, 0, 0, 0, 0xeb, 0xfe];
/// `hlt`, `jmp .`
const HALT: &[u8] = &[0xf4, 0xeb, 0xfe];

/// Runs [`STORE`] until its value has arrived in RAM.
fn run_until_stored(bench: &mut Bench) {
    let (partition, memory) = (bench.partition.clone(), bench.memory.clone());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while memory.read_u64(0x18_0000).expect("RAM") != 1 {
                std::thread::yield_now();
            }
            partition.kick(0);
        });
        bench.vps[0].run(&mut Exits::default(), RunLimit::Unlimited).expect("it runs");
    });
}

#[test]
fn a_kick_before_run_makes_run_return() {
    on_each_engine(|candidate| {
        let mut bench = Bench::new(&*candidate.engine, &code(LOOP)).expect("a bench");
        bench.partition.kick(0);
        assert_eq!(bench.vps[0].run(&mut Exits::default(), RunLimit::Unlimited).expect("it runs"), Stop::Kicked);
    });
}

#[test]
fn a_kick_from_another_thread_ends_a_busy_and_a_halted_vp() {
    on_each_engine(|candidate| {
        for bytes in [LOOP, HALT] {
            let mut bench = Bench::new(&*candidate.engine, &code(bytes)).expect("a bench");
            let partition = bench.partition.clone();
            // The kick may come before the VP runs; that too must end it.
            let kicker = std::thread::scope(|scope| {
                scope.spawn(move || partition.kick(0));
                bench.vps[0].run(&mut Exits::default(), RunLimit::Unlimited).expect("it runs")
            });
            assert_eq!(kicker, Stop::Kicked, "{}", candidate.name());
        }
    });
}

#[test]
fn the_dirty_log_holds_exactly_the_pages_that_the_guest_wrote() {
    on_each_engine(|candidate| {
        let mut bench = Bench::new(&*candidate.engine, &code(STORE)).expect("a bench");
        bench.memory.dirty().enable();
        bench.partition.set_dirty_logging(true).expect("it logs");
        run_until_stored(&mut bench);
        bench.partition.sync_dirty_log().expect("it syncs");
        let mut pages: Vec<u64> = bench.memory.dirty().harvest_ranges().into_iter().flatten().collect();
        // Page tables get accessed and dirty bits: writes too, but not the program's.
        pages.retain(|page| !(0x10..0x14).contains(page));
        assert_eq!(pages, [0x180], "{}", candidate.name());
    });
}

#[test]
fn unmapped_memory_is_mmio_until_it_is_mapped_again() {
    on_each_engine(|candidate| {
        let mut bench = Bench::new(&*candidate.engine, &code(STORE)).expect("a bench");
        bench.partition.unmap(0x18_0000..0x18_1000).expect("it unmaps");
        let mut exits = Exits { kicks: Some(bench.partition.clone()), ..Exits::default() };
        bench.vps[0].run(&mut exits, RunLimit::Unlimited).expect("it runs");
        assert_eq!(exits.written, [0x18_0000], "{}", candidate.name());
        assert_eq!(bench.memory.read_u64(0x18_0000).expect("RAM"), 0);
        bench.partition.map(0x18_0000..0x18_1000, 0x18_0000, Access::ReadWrite).expect("it maps");
        let mut state = bench.vps[0].state().expect("a state");
        state.rip = 0x8000;
        bench.vps[0].set_state(&state).expect("it takes it");
        run_until_stored(&mut bench);
    });
}

#[test]
fn a_state_comes_back_as_it_was_set() {
    on_each_engine(|candidate| {
        let mut bench = Bench::new(&*candidate.engine, &code(LOOP)).expect("a bench");
        let mut state = bench.vps[0].state().expect("a state");
        state.gpr = std::array::from_fn(|register| 0x1111_0000_2222_0000 + register as u64);
        state.gpr[gpr::RSP] = 0x7000;
        state.dr[0] = 0x1234;
        state.set_msr(bulkhead_engine::msr::LSTAR, 0xffff_8000_0000_1000);
        state.xsave[160..176].copy_from_slice(&[7; 16]);
        bench.vps[0].set_state(&state).expect("it takes it");
        let mut back = bench.vps[0].state().expect("a state");
        // Clocks go on, and engines may say "initial" about components that are.
        back.tsc_offset = state.tsc_offset;
        back.apic.timer_started = state.apic.timer_started;
        back.xsave[512] = state.xsave[512];
        assert_eq!(differences(&state, &back), Vec::<String>::new(), "{}", candidate.name());
    });
}

/// Fields that differ, readable.
fn differences(a: &VpState, b: &VpState) -> Vec<String> {
    let (a, b) = (format!("{a:#x?}"), format!("{b:#x?}"));
    a.lines().zip(b.lines()).filter(|(a, b)| a != b).map(|(a, b)| format!("{} / {}", a.trim(), b.trim())).collect()
}

#[test]
fn an_address_is_translated_without_side_effects() {
    on_each_engine(|candidate| {
        let mut bench = Bench::new(&*candidate.engine, &code(LOOP)).expect("a bench");
        assert_eq!(bench.vps[0].translate(0x8123), Some(0x8123), "{}", candidate.name());
        assert_eq!(bench.vps[0].translate(0x4000_0000), None, "{}", candidate.name());
    });
}

#[test]
fn counted_runs_are_exact_and_halts_do_not_wait() {
    on_each_engine(|candidate| {
        if candidate.engine.kind() == EngineKind::Kvm {
            eprintln!("skipped: KVM counts no instructions");
            return;
        }
        let mut bench = Bench::new(&*candidate.engine, &code(LOOP)).expect("a bench");
        let before = bench.vps[0].stats().instructions;
        let stop = bench.vps[0].run(&mut Exits::default(), RunLimit::Instructions(12_345)).expect("it runs");
        assert_eq!(stop, Stop::LimitReached);
        let counted = bench.vps[0].stats().instructions.zip(before).map(|(after, before)| after - before);
        assert_eq!(counted, Some(12_345));
        let mut bench = Bench::new(&*candidate.engine, &code(HALT)).expect("a bench");
        let stop = bench.vps[0].run(&mut Exits::default(), RunLimit::Instructions(10)).expect("it runs");
        assert_eq!(stop, Stop::Halted);
    });
}

#[test]
fn wrong_requests_are_refused_by_name() {
    on_each_engine(|candidate| {
        let bench = Bench::new(&*candidate.engine, &code(LOOP)).expect("a bench");
        let partition = &bench.partition;
        assert!(partition.map(0x1000..0x1000, 0, Access::ReadWrite).is_err());
        assert!(partition.map(0x1800..0x3000, 0, Access::ReadWrite).is_err());
        assert!(partition.map(0x1000_0000..0x1000_1000, 0x1000_0000, Access::ReadWrite).is_err());
        assert!(partition.create_vp(0, &VpState::power_on(0, 0)).is_err());
        assert!(partition.create_vp(7, &VpState::power_on(7, 0)).is_err());
        // Nobody is there to be kicked or interrupted: nothing happens.
        partition.kick(99);
        partition.inject_nmi(99);
    });
}
