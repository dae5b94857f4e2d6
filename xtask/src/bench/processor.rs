//! The program set, single kinds of instructions and the boot: on the host itself, in QEMU's TCG, and in Bulkhead's software
//! engine; then what a whole VM costs.
//!
//! The same initramfs runs in both guests, and the same tree natively. Times are wall-clock times between the lines that the
//! programs print, so the machine must have nothing else to do.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::console::Console;
use super::whole_vm;
use crate::{command, guests, packages};

/// A label and its seconds, or rate, in order.
type Rows = Vec<(String, f64)>;

/// What runs the programs.
enum Runner {
    Native,
    /// QEMU's software engine with one of its processor models.
    Tcg(&'static str),
    Bulkhead,
}

/// The rows of the three runners.
struct Compared {
    native: Rows,
    tcg: Rows,
    ours: Rows,
}

/// Prints the tables.
pub fn run() -> Result<()> {
    packages::install_missing()?;
    command::run(command::cargo().args(["build", "--release", "-p", "bulkhead_cli", "-p", "bulkhead_vm"]))?;
    guests::run(&["kernel-cloud".into(), "programs".into(), "busybox".into()])?;
    let stats = tempfile("stats.json");
    print_times(&compare("programs", &stats, f64::min)?);
    whole_vm::print_mips(&stats)?;
    print_rates(&compare("micro-set", &stats, f64::max)?);
    whole_vm::run()
}

/// Runs a set everywhere. TCG is the better of its two usual processor models in each row: more features are not always faster.
fn compare(set: &str, stats: &Path, better: fn(f64, f64) -> f64) -> Result<Compared> {
    let native = measure(&Runner::Native, set, stats)?;
    let (plain, max) = (measure(&Runner::Tcg("qemu64"), set, stats)?, measure(&Runner::Tcg("max"), set, stats)?);
    let tcg = max.iter().map(|(label, value)| (label.clone(), of(&plain, label).map_or(*value, |p| better(p, *value))));
    Ok(Compared { native, tcg: tcg.collect(), ours: measure(&Runner::Bulkhead, set, stats)? })
}

/// A file of the bench's own.
pub fn tempfile(name: &str) -> std::path::PathBuf {
    guests::folder(&format!("bench-{name}"))
}

fn of(rows: &Rows, label: &str) -> Option<f64> {
    rows.iter().find(|(other, _)| other == label).map(|(_, value)| *value)
}

fn text(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.2}"))
}

fn print_times(Compared { native, tcg, ours }: &Compared) {
    println!(
        "\n{:<22} {:>9} {:>9} {:>9} {:>12} {:>9}",
        "program", "native s", "TCG s", "ours s", "ours/native", "TCG/ours"
    );
    let (mut product, mut count) = (1.0, 0);
    for (label, seconds) in ours {
        let (host, rival) = (of(native, label), of(tcg, label));
        if let Some(rival) = rival.filter(|_| label != "boot") {
            product *= rival / seconds;
            count += 1;
        }
        println!(
            "{label:<22} {:>9} {:>9} {seconds:>9.2} {:>12} {:>9}",
            text(host),
            text(rival),
            text(host.map(|host| seconds / host)),
            text(rival.map(|rival| rival / seconds))
        );
    }
    println!("geometric mean of TCG/ours over the programs: {:.2}", f64::powf(product, 1.0 / f64::from(count.max(1))));
}

/// Rates are larger when faster, so the last column is again how many times faster than TCG we are.
fn print_rates(Compared { native, tcg, ours }: &Compared) {
    println!("\n{:<22} {:>14} {:>14} {:>14} {:>9}", "per second", "native", "TCG", "ours", "ours/TCG");
    for (label, rate) in ours {
        let rival = of(tcg, label);
        println!(
            "{label:<22} {:>14} {:>14} {rate:>14.2} {:>9}",
            text(of(native, label)),
            text(rival),
            text(rival.map(|rival| rate / rival))
        );
    }
}

const KERNEL_LINE: &str = "console=ttyS0 quiet panic=-1";

fn start(runner: &Runner, set: &str, stats: &Path) -> Command {
    let kernel = guests::folder("kernel-cloud").join("vmlinuz");
    let initrd = guests::folder("programs").join("initrd");
    match runner {
        Runner::Native => {
            let mut native = Command::new("chroot");
            native.arg(guests::folder("programs").join("root")).arg(format!("/{set}"));
            native
        }
        Runner::Tcg(model) => {
            let mut qemu = Command::new("qemu-system-x86_64");
            qemu.args(["-accel", "tcg", "-cpu", model, "-m", "1G", "-nographic", "-no-reboot", "-append", KERNEL_LINE]);
            qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
            qemu
        }
        Runner::Bulkhead => {
            let mut boot = Command::new(crate::workspace::release_program("bulkhead"));
            boot.args(["boot", "--engine", "soft", "--memory", "1G", "--no-reboot", "--cmdline", KERNEL_LINE]);
            boot.arg("--kernel").arg(kernel).arg("--initrd").arg(initrd).arg("--stats").arg(stats);
            boot
        }
    }
}

/// Runs a set and notes when each line comes. A line is a label and a digest, or `rate`, a label and a number.
fn measure(runner: &Runner, set: &str, stats: &Path) -> Result<Rows> {
    let name = match runner {
        Runner::Native => "native".to_owned(),
        Runner::Tcg(model) => format!("QEMU TCG, {model}"),
        Runner::Bulkhead => "Bulkhead".to_owned(),
    };
    eprintln!("bench: {set}, {name}");
    let mut console = Console::start(start(runner, set, stats))?;
    let mut rows = Rows::new();
    let mut done = false;
    while let Some((line, lap)) = console.next_line()? {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            _ if line.contains("FIRST-PROCESS") => {
                if set == "programs" {
                    rows.push(("boot".into(), lap));
                }
                console.send(&format!(". /{set}\n"))?;
            }
            [mark] if mark.ends_with("-DONE") => {
                done = true;
                // The native run ends by itself.
                let _ = console.send("off\n");
            }
            ["rate", label, rate] => rows.push((label.into(), rate.parse().context("a rate is a number")?)),
            [label, digest] if digest.len() == 64 => rows.push((label.into(), lap)),
            _ => {}
        }
    }
    console.end()?;
    if !done {
        bail!("{name} did not run all of {set}: {rows:?}");
    }
    Ok(rows)
}
