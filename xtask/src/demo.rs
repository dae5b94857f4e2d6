//! `demo`: the product's main job, shown to a person or, with `--check`, to a script.

use anyhow::{Result, bail};

/// Runs the demo.
pub fn run(check: bool) -> Result<()> {
    let _ = check;
    bail!(
        "the demo boots a Debian guest, and this version of Bulkhead cannot boot one; `cargo xtask test` shows what it can do"
    )
}
