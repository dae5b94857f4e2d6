//! The switch process beside the bars of the design: frames from port to port, latency, idle cost.

use crate::command;
use anyhow::Result;

/// Builds the switch and its load program, and runs it.
pub fn run() -> Result<()> {
    command::run(command::cargo().args(["build", "--release", "-p", "bulkhead_switch", "--bins", "--examples"]))?;
    command::run(command::cargo().args(["run", "--release", "-q", "-p", "bulkhead_switch", "--example", "load"]))
}
