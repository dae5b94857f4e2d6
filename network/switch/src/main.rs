//! `bulkhead-switch`: the process of all virtual switches of a host.
//!
//! It needs no privileges: interfaces of the host are opened by `bulkhead-net-helper`. Definitions are in
//! `/var/lib/bulkhead/switches`, ports and sockets in `/run/bulkhead`; `--root DIR` moves both.

mod capture_writer;
mod control;
mod helper;
mod mac_pool;
mod plane;
mod policy;
mod ports;
mod registry;
mod requests;
mod store;
mod uplink;

use anyhow::{Context, Result, bail};
use bulkhead_switch_protocol::paths;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: bulkhead-switch [--root DIR]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead-switch: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut root = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--root" => root = Some(PathBuf::from(arguments.next().context(USAGE)?)),
            "--version" | "-V" => {
                println!("bulkhead-switch {}", env!("CARGO_PKG_VERSION"));
                return Ok(());
            }
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            other => bail!("unknown argument {other}\n{USAGE}"),
        }
    }
    log_to_stderr();
    control::run(&paths::root(root.as_deref()))
}

/// JSON lines; `BULKHEAD_LOG` chooses what is logged (warnings if unset).
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BULKHEAD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
}
