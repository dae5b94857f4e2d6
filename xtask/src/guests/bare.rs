//! Bare-metal test programs from `guests/bare`: multiboot images, one per C file.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, workspace};

/// Code for the CPU alone: no libraries, and no registers that would have to be switched on first.
const FLAGS: &[&str] = &[
    "-m32",
    "-O1",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-fno-pic",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-mgeneral-regs-only",
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,--build-id=none,-Ttext=0x100000,-N,--no-warn-rwx-segments",
];

pub fn programs(target: &Path) -> Result<()> {
    let folder = workspace::root().join("guests/bare");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for source in entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "c"))
    {
        let name = source.file_stem().context("a source has a name")?;
        // The start comes first: the multiboot header has to be near the beginning of the file.
        let mut gcc = Command::new("gcc");
        command::run(gcc.args(FLAGS).arg("-o").arg(target.join(name)).arg(folder.join("start.S")).arg(&source))?;
    }
    Ok(())
}
