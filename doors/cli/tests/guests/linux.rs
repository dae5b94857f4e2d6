//! Linux kernels, started directly. Each is booted once; what needs a running guest resumes a saved one.

use crate::support::{Guest, guest_file, is_long, stats, worker_is_there};
use std::path::Path;

/// Arguments that start a kernel with the test initramfs.
fn direct(kernel: &str, initrd: &str, more: &[&str]) -> Option<Vec<String>> {
    if !worker_is_there() {
        return None;
    }
    let (kernel, initrd) = (guest_file(kernel)?, guest_file(initrd)?);
    let mut arguments = vec!["--engine".to_owned(), "soft".into(), "--no-reboot".into()];
    arguments.extend(["--kernel".into(), kernel.to_str()?.into(), "--initrd".into(), initrd.to_str()?.into()]);
    arguments.extend(["--cmdline".into(), "console=ttyS0 quiet panic=-1".into()]);
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    Some(arguments)
}

#[test]
fn the_cloud_kernel_boots_saves_resumes_twice_and_powers_off() {
    let folder = tempfile::tempdir().unwrap();
    let (saved, stats_file) = (folder.path().join("saved"), folder.path().join("stats.json"));
    let stats_argument = ["--stats", stats_file.to_str().unwrap()];
    let Some(base) = direct("kernel-cloud/vmlinuz", "busybox/initrd", &stats_argument) else { return };
    let with = |more: [&str; 2]| base.iter().cloned().chain(more.map(str::to_owned)).collect::<Vec<_>>();

    let mut guest = Guest::boot(with(["--save-to", saved.to_str().unwrap()]));
    guest.expect("FIRST-PROCESS", 300);
    guest.command("MARK=before", 20);
    guest.terminate();
    let (status, _) = guest.end(30);
    assert_eq!(status.code(), Some(0));
    let first = stats(&stats_file);
    assert_eq!((first["engine"].as_str(), first["ended_by"].as_str()), (Some("soft"), Some("saved")));
    assert!(first["peak_rss_bytes"].as_u64().unwrap() < 300 << 20, "{first}");
    assert!(first["guest_instructions"].as_u64().unwrap() > 100_000_000, "{first}");

    for end in ["off", "reboot"] {
        let mut guest = Guest::boot(with(["--resume", saved.to_str().unwrap()]));
        let answer = guest.command("echo $MARK; nproc", 30);
        assert!(answer.contains("before\n1\n"), "{answer}");
        guest.send(&format!("{end}\n"));
        let (status, text) = guest.end(30);
        let (code, ended_by) = if end == "off" { (0, "power_off") } else { (10, "reset") };
        assert_eq!(status.code(), Some(code), "{text}");
        assert_eq!(stats(&stats_file)["ended_by"], ended_by);
    }
}

#[test]
fn two_processors_come_up() {
    for cpus in if is_long() { &["2", "4"][..] } else { &["2"] } {
        let Some(arguments) = direct("kernel-cloud/vmlinuz", "busybox/initrd", &["--cpus", cpus]) else { return };
        let mut guest = Guest::boot(arguments);
        guest.expect("FIRST-PROCESS", 300);
        assert!(guest.command("nproc", 60).contains(&format!("\n{cpus}\n")));
        guest.send("off\n");
        assert_eq!(guest.end(60).0.code(), Some(0));
    }
}

#[test]
fn the_kernel_starts_at_its_pvh_entry() {
    let Some(arguments) = direct("kernel-cloud/vmlinux", "busybox/initrd", &[]) else { return };
    let mut guest = Guest::boot(arguments);
    guest.expect("FIRST-PROCESS", 300);
    guest.send("off\n");
    assert_eq!(guest.end(60).0.code(), Some(0));
}

#[test]
fn deterministic_runs_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stats.json");
    let more = ["--deterministic", "--serial", "stdio", "--stats", file.to_str().unwrap()];
    let run = || {
        let mut arguments = direct("kernel-cloud/vmlinuz", "busybox/initrd", &more)?;
        // Nothing is typed: when a key arrives is the outside's business.
        let line = arguments.iter_mut().find(|argument| argument.starts_with("console="))?;
        *line = "console=ttyS0 panic=-1 run=off".into();
        let (status, text) = Guest::boot(arguments).end(400);
        assert_eq!(status.code(), Some(0), "{text}");
        Some((text, stats(&file)["guest_instructions"].as_u64()?))
    };
    let Some(first) = run() else { return };
    let second = run().unwrap();
    assert_eq!(first.1, second.1, "instructions");
    assert_eq!(first.0, second.0);
    assert!(first.0.contains("Power down"), "{}", first.0);
}

#[test]
fn a_hundred_boots_are_a_hundred_good_boots() {
    if !is_long() {
        return eprintln!("skipped: takes an hour; run `cargo xtask test --long guests`");
    }
    for boot in 1..=100 {
        let Some(arguments) = direct("kernel-cloud/vmlinuz", "busybox/initrd", &[]) else { return };
        let mut guest = Guest::boot(arguments);
        guest.expect("FIRST-PROCESS", 300);
        guest.send("off\n");
        let (status, text) = guest.end(60);
        assert_eq!(status.code(), Some(0), "boot {boot}: {text}");
    }
}

#[test]
fn the_32_bit_kernel_runs_every_program_as_the_host_does() {
    for kernel in if is_long() { &["686-pae", "686"][..] } else { &["686-pae"] } {
        let kernel = format!("kernel-{kernel}/vmlinuz");
        let Some(arguments) = direct(&kernel, "programs-i386/initrd", &["--memory", "1G"]) else { return };
        run_every_program("programs-i386", arguments);
    }
}

#[test]
fn every_program_gives_the_same_output_as_on_the_host() {
    let Some(arguments) = direct("kernel-cloud/vmlinuz", "programs/initrd", &["--memory", "1G"]) else { return };
    run_every_program("programs", arguments);
}

/// Runs the program set of a guest natively and in the guest, and compares the digests of what the programs wrote.
fn run_every_program(tree: &str, arguments: Vec<String>) {
    let digests = |text: &str| {
        let lines = text
            .lines()
            .map(|line| line.trim_end_matches('\r'))
            .filter(|line| line.ends_with(|c: char| c.is_ascii_hexdigit()));
        lines
            .filter(|line| line.rsplit(' ').next().is_some_and(|word| word.len() == 64))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let root = guest_file(&format!("{tree}/root")).unwrap();
    let native = std::process::Command::new("chroot").arg(&root).arg("/programs").output();
    let native = match native {
        Ok(output) if output.status.success() => digests(&String::from_utf8_lossy(&output.stdout)),
        _ => {
            return eprintln!("skipped: {tree} does not run natively: chroot needs root, and the host 32-bit programs");
        }
    };
    let mut guest = Guest::boot(arguments);
    guest.expect("FIRST-PROCESS", 300);
    guest.send(". /programs\n");
    guest.expect("PROGRAMS-DONE", 900);
    let inside = digests(&guest.text);
    assert!(native.len() >= 13, "{native:?}");
    assert_eq!(inside, native);
    guest.send("off\n");
    assert_eq!(guest.end(60).0.code(), Some(0));
}

#[test]
fn the_installer_reaches_its_language_prompt() {
    if !worker_is_there() {
        return;
    }
    let folder = Path::new("/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64");
    if !folder.exists() {
        return eprintln!("skipped: the package debian-installer-12-netboot-amd64 is not installed");
    }
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (kernel, initrd) = (file("linux"), file("initrd.gz"));
    // With less memory it first says that it will do without most of its questions.
    let mut guest = Guest::boot([
        "--engine",
        "soft",
        "--memory",
        "1G",
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--cmdline",
        "console=ttyS0 quiet",
    ]);
    guest.expect("Select a language", 600);
    guest.terminate();
    assert_eq!(guest.end(30).0.code(), Some(0));
}
