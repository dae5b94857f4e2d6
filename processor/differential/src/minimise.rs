//! Makes a failing case small and prints it.

use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, Encoder, Formatter, IntelFormatter};

use crate::round::Executor;
use crate::undefined::UndefinedFlags;
use crate::{Case, Host, Outcome, Registers, differences};

/// Drops instructions, then neutralises registers, as long as the case still fails; returns it with its report.
pub fn minimise(case: Case, host: &mut Host, executor: &mut dyn Executor) -> (Case, String) {
    let mut case = case;
    // A smaller case must fail in the same way, not by an address that simplifying has broken.
    let wanted = failure(&case, host, executor);
    let fails = |case: &Case, host: &mut Host, executor: &mut dyn Executor| {
        wanted.is_some() && failure(case, host, executor) == wanted
    };
    let mut index = case.instructions.len();
    while index > 0 {
        index -= 1;
        if case.instructions.len() > 1
            && let Some(shorter) = without(&case, index)
            && fails(&shorter, host, executor)
        {
            case = shorter;
        }
    }
    for simpler in simplifications() {
        let mut candidate = case.clone();
        simpler(&mut candidate);
        if fails(&candidate, host, executor) {
            case = candidate;
        }
    }
    let report = report(&case, host, executor);
    (case, report)
}

type Simplification = Box<dyn Fn(&mut Case)>;

fn simplifications() -> Vec<Simplification> {
    let mut all: Vec<Simplification> = Vec::new();
    for register in 0..16 {
        all.push(Box::new(move |case| case.registers.gpr[register] = 0));
        all.push(Box::new(move |case| case.registers.vector[register] = [0; 32]));
    }
    all.push(Box::new(|case| case.registers.rflags = 0x202));
    all.push(Box::new(|case| case.registers.mxcsr = 0x1f80));
    all.push(Box::new(|case| {
        let initial = Registers::initial();
        let registers = &mut case.registers;
        (registers.st, registers.fcw, registers.fsw, registers.ftw) =
            (initial.st, initial.fcw, initial.fsw, initial.ftw);
    }));
    all
}

/// The case without one instruction; addresses in the others stay what they were.
fn without(case: &Case, index: usize) -> Option<Case> {
    let mut shorter = case.clone();
    shorter.instructions.remove(index);
    shorter.undefined_before.clear();
    let mut undefined = UndefinedFlags::default();
    let start = case.mode.start(case.slot);
    let mut code = vec![0xcc];
    for instruction in &mut shorter.instructions {
        let mut encoder = Encoder::try_new(case.mode.bits()).ok()?;
        let address = start + code.len() as u64;
        encoder.encode(instruction, address).ok()?;
        let bytes = encoder.take_buffer();
        *instruction = Decoder::with_ip(case.mode.bits(), &bytes, address, DecoderOptions::NONE).decode();
        shorter.undefined_before.push(undefined.step(instruction)?);
        code.extend_from_slice(&bytes);
    }
    shorter.undefined_flags = undefined.flags();
    code.push(0xcc);
    shorter.code = code;
    Some(shorter)
}

fn both(case: &Case, host: &mut Host, executor: &mut dyn Executor) -> Option<(Outcome, Outcome)> {
    let cases = std::slice::from_ref(case);
    let host = host.run(cases).ok()?.pop()?;
    executor.load(cases).ok()?;
    Some((host, executor.run(case).ok()?))
}

/// How a case fails: both vectors.
fn failure(case: &Case, host: &mut Host, executor: &mut dyn Executor) -> Option<(u8, u8)> {
    let (host, other) = both(case, host, executor)?;
    let vectors = (host.exception.vector, other.exception.vector);
    (!differences(case, &host, &other).is_empty()).then_some(vectors)
}

/// The case as assembly, and the state before.
pub(crate) fn describe(case: &Case) -> String {
    let mut text = format!("seed {:#x}, {:?} mode, slot {}\n", case.seed, case.mode, case.slot);
    let mut formatter = IntelFormatter::new();
    for instruction in &case.instructions {
        let at = (instruction.ip() - case.mode.start(case.slot)) as usize;
        let mut line = String::new();
        formatter.format(instruction, &mut line);
        let bytes = &case.code[at..at + instruction.len()];
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:#x}  {line:<50} {bytes:02x?}  {:?}", instruction.ip(), instruction.code());
    }
    let _ = writeln!(text, "before: {}", registers(case, &case.registers));
    let _ = writeln!(text, "memory image {}, patches {:x?}", case.image, case.patches);
    text
}

fn report(case: &Case, host: &mut Host, executor: &mut dyn Executor) -> String {
    let mut text = describe(case);
    match both(case, host, executor) {
        Some((host, other)) => {
            let _ = writeln!(text, "host:   {:x?} {}", host.exception, registers(case, &host.registers));
            let _ = writeln!(text, "here:   {:x?} {}", other.exception, registers(case, &other.registers));
            for difference in differences(case, &host, &other) {
                let _ = writeln!(text, "  {difference}");
            }
        }
        None => text.push_str("could not be run again\n"),
    }
    text
}

const NAMES: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// All registers that are not zero.
fn registers(case: &Case, registers: &Registers) -> String {
    let mut text = format!("rip={:x} rflags={:x}", registers.rip, registers.rflags);
    let gprs = registers.gpr.iter().zip(NAMES).take(case.mode.registers());
    for (value, name) in gprs.filter(|(value, _)| **value != 0) {
        let _ = write!(text, " {name}={value:x}");
    }
    let _ = write!(
        text,
        " mxcsr={:x} fcw={:x} fsw={:x} ftw={:x}",
        registers.mxcsr, registers.fcw, registers.fsw, registers.ftw
    );
    for (index, st) in registers.st.iter().enumerate().filter(|(_, st)| **st != [0; 10]) {
        let _ = write!(text, "\n    st({index})={}", hex(st));
    }
    for (index, vector) in registers.vector.iter().enumerate().filter(|(_, vector)| **vector != [0; 32]) {
        let _ = write!(text, "\n    ymm{index}={}", hex(vector));
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().rev().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
