//! `bench`: measures a part beside its rivals in one run and prints ratios.

mod console;
mod network;
mod processor;
mod storage;
mod whole_vm;

use anyhow::{Result, bail};

/// Runs the benches of the named parts, or all of them.
pub fn run(parts: &[String]) -> Result<()> {
    let all = ["processor".to_owned(), "storage".to_owned(), "network".to_owned()];
    for part in if parts.is_empty() { &all[..] } else { parts } {
        match part.as_str() {
            "processor" => processor::run()?,
            "storage" => storage::run()?,
            "network" => network::run()?,
            other => bail!("there is no bench of {other}; the benches are: processor, storage, network"),
        }
    }
    Ok(())
}
