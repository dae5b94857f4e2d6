//! Stock guests on the software engine. Each is booted once; what needs a running guest resumes a saved one.

mod support;

use std::path::Path;
use support::{Guest, guest_file, worker_is_there};

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

/// A key of a stats file.
fn stats(file: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn the_cloud_kernel_boots_saves_resumes_twice_and_powers_off() {
    let folder = tempfile::tempdir().unwrap();
    let (saved, stats_file) = (folder.path().join("saved"), folder.path().join("stats.json"));
    let stats_argument = ["--stats", stats_file.to_str().unwrap()];
    let Some(base) = direct("kernel-cloud/vmlinuz", "busybox/initrd", &stats_argument) else { return };
    let with = |more: [&str; 2]| base.iter().cloned().chain(more.map(str::to_owned)).collect::<Vec<_>>();

    let mut guest = Guest::boot(with(["--save-to", saved.to_str().unwrap()]));
    guest.expect("FIRST-PROCESS", 120);
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
    let Some(arguments) = direct("kernel-cloud/vmlinuz", "busybox/initrd", &["--cpus", "2"]) else { return };
    let mut guest = Guest::boot(arguments);
    guest.expect("FIRST-PROCESS", 120);
    assert!(guest.command("nproc", 20).contains("\n2\n"));
    guest.send("off\n");
    assert_eq!(guest.end(30).0.code(), Some(0));
}

#[test]
fn the_32_bit_kernel_runs_32_bit_programs() {
    let Some(arguments) = direct("kernel-686-pae/vmlinuz", "busybox-i386/initrd", &[]) else { return };
    let mut guest = Guest::boot(arguments);
    guest.expect("FIRST-PROCESS", 180);
    assert!(guest.command("uname -m", 20).contains("\ni686\n"));
    guest.send("off\n");
    assert_eq!(guest.end(30).0.code(), Some(0));
}

#[test]
fn every_program_gives_the_same_output_as_on_the_host() {
    let Some(arguments) = direct("kernel-cloud/vmlinuz", "programs/initrd", &["--memory", "1G"]) else { return };
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
    let root = guest_file("programs/root").unwrap();
    let native = std::process::Command::new("chroot").arg(&root).arg("/programs").output();
    let native = match native {
        Ok(output) if output.status.success() => digests(&String::from_utf8_lossy(&output.stdout)),
        _ => return eprintln!("skipped: chroot needs root"),
    };
    let mut guest = Guest::boot(arguments);
    guest.expect("FIRST-PROCESS", 180);
    guest.send(". /programs\n");
    guest.expect("PROGRAMS-DONE", 400);
    let inside = digests(&guest.text);
    assert!(native.len() >= 12, "{native:?}");
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
    guest.expect("Select a language", 300);
    guest.terminate();
    assert_eq!(guest.end(30).0.code(), Some(0));
}

#[test]
fn grub_starts_from_cd_and_floppy() {
    for (option, source, medium) in [("--cdrom", "cd", "cd-one.iso"), ("--floppy", "floppy", "floppy-one.img")] {
        let Some(image) = guest_file(&format!("grub-media/{medium}")) else { return };
        if !worker_is_there() {
            return;
        }
        // The floppy is opened for writing, and other tests may have it too.
        let copy = tempfile::NamedTempFile::new().unwrap();
        std::fs::copy(image, copy.path()).unwrap();
        let path = copy.path().to_str().unwrap();
        let mut guest = Guest::boot(["--engine", "soft", "--memory", "64M", option, path, "--boot", source]);
        guest.expect("Medium one", 120);
        guest.terminate();
        assert_eq!(guest.end(30).0.code(), Some(0));
    }
}
