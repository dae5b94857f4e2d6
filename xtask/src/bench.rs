//! `bench`: measures a part beside its rivals in one run and prints ratios.

use anyhow::{Result, bail};

/// Runs the benches of the named parts.
pub fn run(parts: &[String]) -> Result<()> {
    if let Some(part) = parts.first() {
        bail!("there is no bench of {part}; the benches are: none");
    }
    println!("no part has a bench");
    Ok(())
}
