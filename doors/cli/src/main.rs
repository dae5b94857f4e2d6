//! `bulkhead`: the command line. One module per noun; this file only reads the arguments and maps errors to exit codes.

mod boot;
mod disk;
mod exit;
mod switch;
mod worker;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "bulkhead", version, about = "Runs and manages virtual machines", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Subcommand)]
enum Noun {
    /// Runs one VM in the foreground, without a service
    Boot(Box<boot::Arguments>),
    /// Virtual disks: create, convert, check, compact, merge, serve …
    #[command(subcommand)]
    Disk(disk::Command),
    /// Virtual switches: create, list, show, set, delete, ports, stats, capture …
    #[command(subcommand)]
    Switch(switch::Command),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to standard output and are no failure; clap knows.
            let _ = error.print();
            return if error.use_stderr() { exit::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let result = match arguments.noun {
        Noun::Boot(arguments) => boot::run(&arguments),
        Noun::Disk(command) => disk::run(command),
        Noun::Switch(command) => switch::run(command),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("bulkhead: {failure}");
        failure.code().into()
    })
}
