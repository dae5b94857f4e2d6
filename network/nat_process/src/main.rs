//! `bulkhead-nat`: see the library.

use bulkhead_linux::SeqPacket;
use std::os::fd::AsFd;
use std::process::ExitCode;

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    let starter = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => SeqPacket::from(socket),
        Err(error) => {
            eprintln!("bulkhead-nat: cannot use standard input: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = bulkhead_nat_process::run(starter, true) {
        eprintln!("bulkhead-nat: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
