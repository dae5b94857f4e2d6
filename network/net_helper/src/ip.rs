//! Running `ip` of iproute2, which knows netlink. Arguments are passed one by one, never through a shell, and names were checked.

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use std::process::{Command, Stdio};

/// Runs `ip` with these arguments.
///
/// # Errors
/// It is not installed, or refuses; with its words.
pub fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot run ip: install the package iproute2")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The same, reading its JSON.
///
/// # Errors
/// As for [`ip`], or it prints something else.
pub fn ip_json<T: DeserializeOwned>(arguments: &[&str]) -> Result<T> {
    let text = ip(&[&["-j"], arguments].concat())?;
    // Nothing at all means an empty list.
    let text = if text.trim().is_empty() { "[]" } else { &text };
    serde_json::from_str(text).with_context(|| format!("ip -j {} printed no JSON that is known", arguments.join(" ")))
}
