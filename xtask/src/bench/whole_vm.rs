//! What a whole VM on the software engine costs: boot, memory, idling, resuming, a second processor.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::console::{Console, wait};
use super::processor::tempfile;
use crate::{guests, workspace};

/// Seconds that the idle guest is watched.
const IDLE: u64 = 20;

/// Prints a row with its bar.
fn row(what: &str, value: f64, unit: &str, bar: &str, met: bool) {
    println!("{what:<52} {value:>9.2} {unit:<8} {bar:>8}{}", if met { "" } else { "  MISSED" });
}

fn stats(file: &Path) -> Result<serde_json::Value> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&bytes).context("the stats are no JSON")
}

fn number(stats: &serde_json::Value, key: &str) -> Result<f64> {
    stats[key].as_f64().with_context(|| format!("the stats have no {key}"))
}

/// Prints the rate over a run of the program set, its boot included.
pub fn print_mips(file: &Path) -> Result<()> {
    let stats = stats(file)?;
    let mips = number(&stats, "guest_instructions")? / number(&stats, "cpu_seconds")? / 1e6;
    row("program set: instructions per CPU second", mips, "MIPS", ">= 150", mips >= 150.0);
    Ok(())
}

/// Prints the rows of whole VMs.
pub fn run() -> Result<()> {
    println!();
    boot_and_idle()?;
    resume()?;
    two_processors()
}

/// `bulkhead boot` with the cloud kernel and one of the initial RAM disks.
fn boot(initrd: &str, more: &[&str]) -> Command {
    let mut boot = Command::new(workspace::release_program("bulkhead"));
    boot.args(["boot", "--engine", "soft", "--no-reboot", "--cmdline", "console=ttyS0 quiet panic=-1", "--kernel"]);
    boot.arg(guests::folder("kernel-cloud").join("vmlinuz"));
    boot.arg("--initrd").arg(guests::folder(initrd).join("initrd")).args(more);
    boot
}

/// User and system time of the worker of a `bulkhead boot`, in seconds.
fn worker_seconds(starter: u32) -> Result<f64> {
    let children = format!("/proc/{starter}/task/{starter}/children");
    let children = std::fs::read_to_string(&children).with_context(|| format!("cannot read {children}"))?;
    let worker = children.split_whitespace().next().context("it has no worker")?;
    let stat = std::fs::read_to_string(format!("/proc/{worker}/stat")).context("cannot look at the worker")?;
    // Behind the name, which may contain anything, user and system time are fields 12 and 13, in hundredths.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    Ok((field(11).context("no user time")? + field(12).context("no system time")?) / 100.0)
}

fn boot_and_idle() -> Result<()> {
    let file = tempfile("stats.json");
    let mut console = Console::start(boot("busybox", &["--stats", &file.to_string_lossy()]))?;
    console.wait_for("FIRST-PROCESS")?;
    let booted = worker_seconds(console.id())?;
    row("boot to first process, 512 MiB, 1 processor", booted, "CPU-s", "<= 12", booted <= 12.0);
    // What the kernel still does after its first process has started is no idling.
    wait(5);
    let before = worker_seconds(console.id())?;
    wait(IDLE);
    let idle = (worker_seconds(console.id())? - before) / IDLE as f64 * 100.0;
    row("idle guest", idle, "% of CPU", "<= 2", idle <= 2.0);
    console.send("off\n")?;
    console.end()?;
    let rss = number(&stats(&file)?, "peak_rss_bytes")? / f64::from(1 << 20);
    row("same, peak resident memory of the worker", rss, "MiB", "<= 300", rss <= 300.0);
    Ok(())
}

/// From the start of the process to the guest's answer.
fn resume() -> Result<()> {
    let folder = tempfile("saved");
    let folder = folder.to_string_lossy();
    let mut console = Console::start(boot("busybox", &["--save-to", &folder]))?;
    console.wait_for("FIRST-PROCESS")?;
    console.terminate()?;
    console.end()?;
    let mut times = Vec::new();
    for _ in 0..5 {
        let mut console = Console::start(boot("busybox", &["--resume", &folder]))?;
        console.send("echo BA''CK\n")?;
        times.push(console.wait_for("BACK")? * 1000.0);
        console.send("off\n")?;
        console.end()?;
    }
    std::fs::remove_dir_all(&*folder).context("cannot remove the saved VM")?;
    times.sort_by(f64::total_cmp);
    row("resume of a 512 MiB VM to the guest's first answer", times[2], "ms", "<= 100", times[2] <= 100.0);
    Ok(())
}

/// The same two programs on one processor and on two.
fn two_processors() -> Result<()> {
    // The terminal shows what is typed, so the mark is written in another way than it is printed.
    let work = "for i in 1 2; do head -c 50000000 /dev/zero | sha256sum & done; wait; echo BOTH-''DONE\n";
    let seconds = |cpus: &str| -> Result<f64> {
        let mut console = Console::start(boot("programs", &["--memory", "1G", "--cpus", cpus]))?;
        console.wait_for("FIRST-PROCESS")?;
        console.send(work)?;
        let seconds = console.wait_for("BOTH-DONE")?;
        console.send("off\n")?;
        console.end()?;
        Ok(seconds)
    };
    let ratio = seconds("1")? / seconds("2")?;
    row("throughput of 2 processors over that of 1", ratio, "times", ">= 1.7", ratio >= 1.7);
    Ok(())
}
