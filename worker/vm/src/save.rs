//! Saving a paused VM into two files: the state of everything, and RAM.

use anyhow::{Context, Result};
use bulkhead_engine::VpState;
use bulkhead_machine::{Machine, Resources};
use bulkhead_reactor::Time;
use bulkhead_worker_protocol::resource;
use std::io::BufWriter;
use std::time::Duration;

/// Writes both files and makes them durable.
///
/// # Errors
/// A file was not passed, or cannot be written.
pub fn save(machine: &Machine, vps: &[VpState], now: Time, resources: &mut Resources) -> Result<()> {
    let mut take = |name: &str| resources.take_file(name).with_context(|| format!("the file {name} was not passed"));
    let (state, memory) = (take(resource::SAVED_STATE)?, take(resource::SAVED_MEMORY)?);
    // RAM first: a state file with an end promises that its RAM is there.
    machine.memory().save(&memory).context("cannot save RAM")?;
    memory.sync_all().context("cannot make saved RAM durable")?;
    let times = (now.as_nanos(), wall_clock().as_secs());
    let writer = machine.save(vps, times, BufWriter::new(state)).context("cannot save the state of the VM")?;
    let state = writer.into_inner().map_err(|error| error.into_error()).context("cannot save the state of the VM")?;
    state.sync_all().context("cannot make the saved state durable")
}

/// The host's time since 1970.
#[allow(clippy::disallowed_methods, reason = "the guest's clock has to be set once; it goes on with VM time")]
pub fn wall_clock() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}
