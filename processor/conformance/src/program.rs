//! Programs: their machine code and what their head says about them.

include!(concat!(env!("OUT_DIR"), "/programs.rs"));

/// The processor mode in which a program is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 16-bit real mode, CS = 0.
    Real,
    /// 32-bit protected mode, flat, no paging.
    Protected,
    /// 32-bit protected mode with 4 MiB pages.
    Paged,
    /// 32-bit protected mode with PAE.
    Pae,
    /// 64-bit mode, privilege level 0.
    Long,
}

/// One conformance program.
#[derive(Debug, Clone)]
pub struct Program {
    /// File name without the extension.
    pub name: &'static str,
    /// Flat code for 0x8000.
    pub code: &'static [u8],
    /// Mode at entry.
    pub mode: Mode,
    /// Number of VPs; all but the first wait for a start-up IPI.
    pub vps: u32,
    /// What it must report, in order.
    pub expect: Vec<u32>,
    /// How it ends: `ended` by its own word, or the name of a [`bulkhead_engine::Stop`].
    pub end: String,
    /// Its reports depend on real time, so it cannot be stepped through.
    pub timed: bool,
    /// The partition has the Hyper-V interface.
    pub hyperv: bool,
    /// What it needs that an emulating KVM lacks.
    pub needs: Option<String>,
}

/// All programs, by name.
pub fn programs() -> Vec<Program> {
    PROGRAMS.iter().map(|&(name, source, code)| parse(name, source, code)).collect()
}

/// Heads are ours: a wrong one is a bug of the suite and panics with the file's name.
fn parse(name: &'static str, source: &str, code: &'static [u8]) -> Program {
    let lines = |key: &str| {
        let prefix = format!("# {key}: ");
        source.lines().filter_map(move |line| line.strip_prefix(&prefix).map(str::trim).map(str::to_owned))
    };
    let mode = match lines("mode").next().as_deref() {
        Some("real") => Mode::Real,
        Some("protected") => Mode::Protected,
        Some("paged") => Mode::Paged,
        Some("pae") => Mode::Pae,
        Some("long") => Mode::Long,
        other => panic!("programs/{name}.S: unknown mode {other:?}"),
    };
    let number = |word: &str| {
        let parsed = word.strip_prefix("0x").map_or_else(|| word.parse(), |hex| u32::from_str_radix(hex, 16));
        parsed.unwrap_or_else(|error| panic!("programs/{name}.S: {word}: {error}"))
    };
    let expect: Vec<u32> = lines("expect").flat_map(|l| l.split_whitespace().map(number).collect::<Vec<_>>()).collect();
    assert!(!expect.is_empty(), "programs/{name}.S expects nothing");
    Program {
        name,
        code,
        mode,
        vps: lines("vps").next().map_or(1, |count| number(&count)),
        expect,
        end: lines("ends").next().unwrap_or_else(|| "ended".into()),
        timed: lines("timed").next().is_some(),
        hyperv: lines("hyperv").next().is_some(),
        needs: lines("needs").next(),
    }
}
