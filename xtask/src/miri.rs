//! Miri over the crates that confine raw memory, as far as it can run them; part of the long tests.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{command, workspace};

const CRATES: [&str; 2] = ["bulkhead_guest_memory", "bulkhead_linux"];

/// Runs it, or says why not: miri comes with a nightly toolchain only.
pub fn run() -> Result<()> {
    let probe = Command::new("cargo").args(["+nightly", "miri", "--version"]).stderr(Stdio::null()).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("skipped: miri is not installed (rustup +nightly component add miri rust-src)");
        return Ok(());
    }
    let mut miri = Command::new("cargo");
    miri.args(["+nightly", "miri", "test", "--lib"]).current_dir(workspace::root());
    miri.args(CRATES.iter().flat_map(|name| ["-p", name]));
    // A cargo that was started by cargo inherits the toolchain of the first one.
    miri.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env("MIRIFLAGS", "-Zmiri-disable-isolation");
    command::run(&mut miri)
}
