//! Bare-metal programs from `guests/bare`, as multiboot images: on both engines, saved and resumed, and as a hostile guest.

use crate::support::{Guest, guest_file, is_long, stats, worker_is_there};
use std::path::Path;

/// Arguments that start a bare-metal program.
fn bare(program: &str, command_line: &str, more: &[&str]) -> Option<Vec<String>> {
    if !worker_is_there() {
        return None;
    }
    let kernel = guest_file(&format!("bare/{program}"))?;
    let fixed =
        ["--test-devices", "--no-reboot", "--memory", "32M", "--kernel", kernel.to_str()?, "--cmdline", command_line];
    Some(fixed.iter().chain(more).map(|argument| (*argument).to_owned()).collect())
}

/// Why KVM cannot be used on this host.
fn no_kvm() -> Option<String> {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    opened.err().map(|error| format!("/dev/kvm cannot be opened: {error}"))
}

#[test]
fn a_multiboot_program_gets_its_line_module_and_memory() {
    let module = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(module.path(), "first line\nsecond line\n").unwrap();
    let more = ["--engine", "soft", "--initrd", module.path().to_str().unwrap()];
    let Some(arguments) = bare("echo", "some words", &more) else { return };
    let mut guest = Guest::boot(arguments);
    guest.expect("MULTIBOOT some words upper=31744 module=first line\nREADY", 30);
    guest.send("q");
    // Twice the 16 that the program writes, plus 1.
    assert_eq!(guest.end(30).0.code(), Some(33));
}

/// Saves the program after two characters, and continues it with the third.
fn saves_and_resumes(engine: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let (saved, file) = (folder.path().join("saved"), folder.path().join("stats.json"));
    let with = |what: [&str; 2]| {
        let more: Vec<&str> = engine.iter().copied().chain(what).chain(["--stats", file.to_str().unwrap()]).collect();
        bare("echo", "", &more)
    };
    let Some(arguments) = with(["--save-to", saved.to_str().unwrap()]) else { return };
    let mut guest = Guest::boot(arguments);
    guest.expect("READY", 30);
    guest.send("ab");
    guest.expect("2:b", 30);
    guest.terminate();
    assert_eq!(guest.end(30).0.code(), Some(0));
    let first = stats(&file);
    assert_eq!((first["engine"].as_str(), first["ended_by"].as_str()), (Some(engine[1]), Some("saved")));
    let mut guest = Guest::boot(with(["--resume", saved.to_str().unwrap()]).unwrap());
    guest.send("c");
    guest.expect("3:c", 30);
    guest.send("q");
    assert_eq!(guest.end(30).0.code(), Some(33));
}

#[test]
fn a_program_on_the_software_engine_is_saved_and_resumed() {
    saves_and_resumes(&["--engine", "soft"]);
}

#[test]
fn a_program_on_kvm_is_saved_and_resumed() {
    match no_kvm() {
        Some(reason) => eprintln!("skipped: {reason}"),
        // Any KVM has this level.
        None => saves_and_resumes(&["--engine", "kvm", "--cpu-level", "v1"]),
    }
}

#[test]
fn the_bios_starts_grub_on_kvm() {
    if let Some(reason) = no_kvm() {
        return eprintln!("skipped: {reason}");
    }
    let Some(cd) = guest_file("grub-media/cd-one.iso").filter(|_| worker_is_there()) else { return };
    let cd = cd.to_str().unwrap();
    let mut guest =
        Guest::boot(["--engine", "kvm", "--cpu-level", "v1", "--memory", "64M", "--cdrom", cd, "--boot", "cd"]);
    if !guest.sees("Medium one", 240) {
        return eprintln!("skipped: this KVM did not bring GRUB to its menu in 240 s; it emulates guest kernel code");
    }
    guest.terminate();
    assert_eq!(guest.end(30).0.code(), Some(0));
}

#[test]
fn a_guest_that_hammers_devices_ends_or_continues() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stats.json");
    let floppy = folder.path().join("floppy.img");
    std::fs::File::create(&floppy).unwrap().set_len(1440 << 10).unwrap();
    let disk = folder.path().join("disk.img");
    std::fs::File::create(&disk).unwrap().set_len(8 << 20).unwrap();
    let more = ["--engine", "soft", "--stats", file.to_str().unwrap(), "--disk", disk.to_str().unwrap()];
    let more: Vec<&str> = more.into_iter().chain(["--floppy", floppy.to_str().unwrap()]).collect();
    let mut ends = std::collections::BTreeMap::<String, u32>::new();
    for seed in 1..=if is_long() { 2000 } else { 30 } {
        let Some(arguments) = bare("hammer", &seed.to_string(), &more) else { return };
        let mut guest = Guest::boot(arguments);
        // A guest that halts itself for good, or waits for a port that it has switched off, goes on for ever.
        if !guest.ends_by_itself(3) {
            guest.terminate();
        }
        let (status, text) = guest.end(30);
        let by = ended_by(&file).unwrap_or_else(|| panic!("seed {seed}: no stats, {status}; {text}"));
        let known = ["power_off", "reset", "triple_fault", "debug_exit", "stop"];
        assert!(known.contains(&by.as_str()), "seed {seed}: {by}, {status}; {text}");
        *ends.entry(by).or_default() += 1;
        std::fs::remove_file(&file).unwrap();
    }
    eprintln!("ends of hammering guests: {ends:?}");
}

fn ended_by(file: &Path) -> Option<String> {
    let bytes = std::fs::read(file).ok()?;
    let stats: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    Some(stats["ended_by"].as_str()?.to_owned())
}
