//! `cargo xtask`: every chore of the project, one module each.

mod bench;
mod command;
mod demo;
mod guests;
mod layers;
mod map;
mod miri;
mod package_check;
mod packages;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The chores of the Bulkhead project")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Builds and runs all tests; prints what each part took
    Test {
        /// Soaks, crash matrices at full width, long fuzz rounds: hours
        #[arg(long)]
        long: bool,
        /// Only these parts or test programs (guests, requests …): foundation, processor, devices, storage, network, machine, worker, doors, xtask
        parts: Vec<String>,
    },
    /// Installs what the demo needs and shows the product's main job
    Demo {
        /// Unattended: prints a verdict and exits
        #[arg(long)]
        check: bool,
    },
    /// Measures against the bars of the design and prints ratios
    Bench {
        /// processor, storage, network …; all of them if none is named
        parts: Vec<String>,
    },
    /// Makes the guests that tests and demo boot, from Debian packages, below target/guests
    Guests {
        /// Names of guests; all of them if none is named
        names: Vec<String>,
    },
    /// Checks that crates depend on lower layers only, and where unsafe code may be
    Layers,
    /// Writes docs/map.md from the first doc line of each crate
    Map {
        /// Only checks that it is fresh
        #[arg(long)]
        check: bool,
    },
    /// Checks licences, duplicate versions and the size of the lock file
    PackageCheck,
    /// Installs the Debian packages that tests, demo and benches need
    Packages,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().chore {
        Chore::Test { long, parts } => test::run(long, &parts),
        Chore::Demo { check } => demo::run(check),
        Chore::Bench { parts } => bench::run(&parts),
        Chore::Guests { names } => guests::run(&names),
        Chore::Layers => layers::check(),
        Chore::Map { check } => map::run(check),
        Chore::PackageCheck => package_check::check(),
        Chore::Packages => packages::install_missing(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
