//! `bulkhead-vm`: the process of one VM, or with `--image` of one job on disk images. Whoever starts it passes a SEQPACKET
//! socket as standard input and speaks `bulkhead_worker_protocol` over it; all files come as descriptors.

mod cables;
mod clock;
mod control;
mod disks;
mod engine;
mod executor;
mod guest;
mod media;
mod merge;
mod power;
mod save;
mod serial;
mod stats;
mod vm;

use anyhow::{Context, Result, bail};
use bulkhead_linux::{Signal, SignalFd};
use std::os::fd::AsFd;
use std::process::ExitCode;

const USAGE: &str = "bulkhead-vm is started by bulkhead or bulkheadd, with a socket as its standard input.";

fn main() -> ExitCode {
    let mode = std::env::args().nth(1);
    match mode.as_deref() {
        None | Some("--image") => {}
        Some("--version" | "-V") => {
            println!("bulkhead-vm {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some("--help" | "-h") => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            eprintln!("bulkhead-vm: unknown argument {other}\n{USAGE}");
            return ExitCode::from(2);
        }
    }
    log_to_stderr();
    match run(mode.is_some()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead-vm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(is_image_process: bool) -> Result<()> {
    // Held to the end: Ctrl-C in a terminal is for the starter, who tells us what to do.
    let _signals =
        SignalFd::new(&[Signal::Terminate, Signal::Interrupt, Signal::Hangup]).context("cannot take signals")?;
    let input = std::io::stdin();
    let kind = rustix::net::sockopt::socket_type(input.as_fd());
    if kind != Ok(rustix::net::SocketType::SEQPACKET) {
        bail!("standard input is no SEQPACKET socket. {USAGE}");
    }
    let socket = input.as_fd().try_clone_to_owned().context("cannot take over the socket")?;
    if is_image_process {
        return bulkhead_image_process::run(socket.into()).context("the starter cannot be understood");
    }
    control::run(socket.into())
}

/// JSON lines; `BULKHEAD_LOG` chooses what is logged (warnings if unset).
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BULKHEAD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
}
