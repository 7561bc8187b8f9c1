//! The program: parses, calls the library, maps the error to an exit status.

use std::process::ExitCode;

use clap::Parser;
use instant_connect_worker::cli;

fn main() -> ExitCode {
    // Before any thread is started.
    cli::stack::enlarge();
    cli::run(cli::Cli::parse())
}
