//! The program set and the boot: on the host itself, in QEMU's TCG, and in Bulkhead's software engine.
//!
//! The same initramfs runs in both guests, and the same tree natively. Times are wall-clock times between the lines that the
//! programs print, so the machine must have nothing else to do.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{command, guests, packages};

/// A label and its seconds, in order.
type Times = Vec<(String, f64)>;

/// Prints the table.
pub fn run() -> Result<()> {
    packages::install_missing()?;
    command::run(command::cargo().args(["build", "--release", "-p", "bulkhead_cli", "-p", "bulkhead_vm"]))?;
    guests::run(&["kernel-cloud".into(), "programs".into()])?;
    let mut native = Command::new("chroot");
    native.arg(guests::folder("programs").join("root")).arg("/programs");
    let native = measure("native", native)?;
    let tcg = measure("QEMU TCG", tcg())?;
    let ours = measure("Bulkhead", bulkhead())?;
    println!(
        "\n{:<16} {:>9} {:>9} {:>9} {:>12} {:>14}",
        "program", "native s", "TCG s", "ours s", "ours/native", "TCG/ours"
    );
    let (mut product, mut count) = (1.0, 0);
    for (label, seconds) in &ours {
        let of = |times: &Times| times.iter().find(|(other, _)| other == label).map(|(_, seconds)| *seconds);
        let text = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        let (host, rival) = (of(&native), of(&tcg));
        if let Some(rival) = rival.filter(|_| label != "boot") {
            product *= rival / seconds;
            count += 1;
        }
        println!(
            "{label:<16} {:>9} {:>9} {seconds:>9.2} {:>12} {:>14}",
            text(host),
            text(rival),
            text(host.map(|host| seconds / host)),
            text(rival.map(|rival| rival / seconds))
        );
    }
    println!("geometric mean of TCG/ours over the programs: {:.2}", f64::powf(product, 1.0 / f64::from(count.max(1))));
    Ok(())
}

const KERNEL_LINE: &str = "console=ttyS0 quiet panic=-1";

fn tcg() -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg", "-m", "1G", "-nographic", "-no-reboot", "-append", KERNEL_LINE, "-kernel"]);
    qemu.arg(guests::folder("kernel-cloud").join("vmlinuz"))
        .arg("-initrd")
        .arg(guests::folder("programs").join("initrd"));
    qemu
}

fn bulkhead() -> Command {
    let mut boot = Command::new(crate::workspace::release_program("bulkhead"));
    boot.args(["boot", "--engine", "soft", "--memory", "1G", "--no-reboot", "--cmdline", KERNEL_LINE, "--kernel"]);
    boot.arg(guests::folder("kernel-cloud").join("vmlinuz"));
    boot.arg("--initrd").arg(guests::folder("programs").join("initrd"));
    boot
}

/// Runs the set and notes when each line comes. A line is a label and a digest.
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "measuring real time is the purpose here")]
fn measure(name: &str, mut command: Command) -> Result<Times> {
    eprintln!("bench: {name}");
    let mut last = std::time::Instant::now();
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = spawned.with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    let mut input = child.stdin.take().context("its input is a pipe")?;
    let output = BufReader::new(child.stdout.take().context("its output is a pipe")?);
    let mut times = Times::new();
    let mut done = false;
    for line in output.split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("its output ended")?).trim().to_owned();
        let mut lap = || std::mem::replace(&mut last, std::time::Instant::now()).elapsed().as_secs_f64();
        match line.split_once(' ') {
            _ if line.contains("FIRST-PROCESS") => {
                times.push(("boot".into(), lap()));
                input.write_all(b". /programs\n").context("it takes no input")?;
                last = std::time::Instant::now();
            }
            _ if line.contains("PROGRAMS-DONE") => {
                done = true;
                // The native run has ended by itself.
                let _ = input.write_all(b"off\n");
            }
            Some((label, digest)) if digest.len() == 64 => times.push((label.into(), lap())),
            _ => {}
        }
    }
    child.wait().context("cannot wait for it")?;
    if !done {
        bail!("{name} did not run all programs: {times:?}");
    }
    Ok(times)
}
