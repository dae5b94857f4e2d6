//! `packages`: the Debian packages of `packages.toml`.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{command, workspace};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    /// Package name and why it is needed.
    packages: BTreeMap<String, String>,
}

/// Installs what is missing if we are root; otherwise says which one command does it.
pub fn install_missing() -> Result<()> {
    let path = workspace::root().join("xtask/packages.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let list: List = toml::from_str(&text).with_context(|| format!("{} is wrong", path.display()))?;
    let missing: Vec<&str> = list.packages.keys().map(String::as_str).filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root()? {
        bail!(
            "Debian packages are missing; install them with\n  apt-get install --no-install-recommends {}",
            missing.join(" ")
        );
    }
    eprintln!("installing Debian packages: {}", missing.join(" "));
    let apt = |words: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(["-q", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300"]).args(words);
        apt.env("DEBIAN_FRONTEND", "noninteractive").stdout(std::io::stderr());
        command::run(&mut apt)
    };
    apt(&["update"])?;
    apt(&[&["install", "--yes", "--no-install-recommends"], missing.as_slice()].concat())
}

fn is_installed(package: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]).output();
    query.is_ok_and(|output| output.stdout.starts_with(b"installed"))
}

fn is_root() -> Result<bool> {
    Ok(command::output(Command::new("id").arg("-u"))?.trim() == "0")
}
