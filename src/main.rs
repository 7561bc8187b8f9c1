//! The program: parses arguments, calls the library, and maps its error to an exit status.

use std::process::ExitCode;

use clap::Parser;
use instant_connect_worker::cli;

fn main() -> ExitCode {
    // Before any thread starts.
    cli::stack::enlarge();
    cli::run(cli::Cli::parse())
}
