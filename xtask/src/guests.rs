//! `guests`: the guests that tests and demo boot, made from Debian packages.

use anyhow::{Result, bail};

/// Makes the named guests.
pub fn run(names: &[String]) -> Result<()> {
    if let Some(name) = names.first() {
        bail!("there is no guest {name}; the guests are: none");
    }
    println!("no test needs a guest");
    Ok(())
}
