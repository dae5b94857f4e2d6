//! `demo`: the product's main job, shown to a person or, with `--check`, to a script: a stock Debian comes up in a VM.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{command, guests, packages, workspace};

/// What the guest prints when it is up.
const LOGIN: &str = "bulkhead-guest login:";
/// How long an unattended demo may take: a software processor on a busy machine.
const PATIENCE: &str = "900";

/// Runs the demo.
pub fn run(check: bool) -> Result<()> {
    packages::install_missing()?;
    command::run(command::cargo().args(["build", "--release", "-p", "bulkhead_cli", "-p", "bulkhead_vm"]))?;
    guests::run(&["debian".into()])?;
    // The guest's own disk stays as it was made.
    let image = guests::folder("debian").join("disk.img");
    let disk = workspace::root().join("target/guests/demo.img");
    let copied = Command::new("cp").arg("--sparse=always").arg(&image).arg(&disk).status();
    if !copied.context("cannot start cp")?.success() {
        bail!("cannot copy {}", image.display());
    }
    let mut boot = Command::new("timeout");
    if check {
        boot.args(["--signal=TERM", PATIENCE]);
    } else {
        boot.args(["--foreground", "0"]);
        println!("\nDebian boots in a VM. Log in as root, without a password; `poweroff` or Ctrl-A X ends it.\n");
    }
    boot.arg(workspace::release_program("bulkhead")).args(["boot", "--memory", "512M", "--disk"]).arg(&disk);
    if check { verdict(boot) } else { command::run(&mut boot) }
}

/// Waits for the login prompt, logs in, powers off, and says whether all of that happened.
fn verdict(mut boot: Command) -> Result<()> {
    let mut child = boot.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start the VM")?;
    let mut input = child.stdin.take().context("its input is a pipe")?;
    let mut output = child.stdout.take().context("its output is a pipe")?;
    let steps = [(LOGIN, "root\n"), ("# ", "systemctl is-system-running; poweroff\n")];
    let (mut text, mut step, mut buffer) = (String::new(), 0, [0; 4096]);
    while let Ok(count @ 1..) = output.read(&mut buffer) {
        let piece = String::from_utf8_lossy(&buffer[..count]).into_owned();
        print!("{piece}");
        let _ = std::io::stdout().flush();
        text.push_str(&piece);
        if let Some((wanted, answer)) = steps.get(step)
            && text.contains(wanted)
        {
            input.write_all(answer.as_bytes()).context("the VM takes no input")?;
            text.clear();
            step += 1;
        }
    }
    let status = child.wait().context("cannot wait for the VM")?;
    if step == steps.len() && status.success() {
        println!("\ndemo: passed: Debian booted to a login prompt, took a command, and switched itself off");
        return Ok(());
    }
    bail!("the demo failed: {step} of {} steps were reached, and the VM ended with {status}", steps.len())
}
