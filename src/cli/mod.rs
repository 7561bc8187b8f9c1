//! The command line: one file a subcommand. Data goes to standard output, everything else to standard error; exit
//! status 0 is done, 1 failed, 2 wrong usage or configuration.

mod check;
mod dead;
mod demo;
mod emit;
mod health;
mod log;
mod phones;
mod progress;
mod run;
mod sandbox;
mod schema;
mod signals;
pub mod stack;
mod topology;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    broker::{connection::BrokerError, topology::TopologyError},
    config::{self, ConfigError, Loaded, Sources},
    masking::masked,
    sandbox::SandboxError,
    telemetry,
    worker::WorkerError,
};

/// Turns "start video session" events from RabbitMQ into Webex Instant Connect links.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help = "Settings over the defaults, as TOML [env: ICW_CONFIG]"
    )]
    config: Option<PathBuf>,
    /// One setting, over all others; may be given again
    #[arg(long = "set", global = true, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the worker
    Run,
    /// Show the whole way on a sandbox: one session, what each person receives
    Demo(demo::Args),
    /// Serve Instant Connect and Webex Messages, faked faithfully
    Sandbox(sandbox::Args),
    /// Publish a start event
    Emit(emit::Args),
    /// Show the configuration as understood; with --connect, try what it names
    Check(check::Args),
    /// Print the exchanges and queues, or declare them
    Topology(topology::Args),
    /// Print the JSON Schemas of the messages, or of the settings
    Schema(schema::Args),
    /// List, show, replay or drop dead letters
    Dead(dead::Args),
    /// Ask a running worker whether it is ready; exit status 1 and the failed checks if it is not
    Health(health::Args),
    /// Change what a running worker logs
    Log(log::Args),
}

/// What ends a command otherwise than well.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    /// Wrong usage or configuration: exit status 2.
    #[error("{0}")]
    Usage(String),
    /// Anything else: exit status 1.
    #[error("{0}")]
    Failed(String),
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<WorkerError> for CommandError {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Config(error) => error.into(),
            WorkerError::Admin(error) => Self::Usage(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<BrokerError> for CommandError {
    fn from(error: BrokerError) -> Self {
        Self::Failed(format!("broker: {error}"))
    }
}

impl From<TopologyError> for CommandError {
    fn from(error: TopologyError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<SandboxError> for CommandError {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::NotLoopback(_) | SandboxError::BaseUrl => Self::Usage(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<prometheus::Error> for CommandError {
    fn from(error: prometheus::Error) -> Self {
        Self::Failed(format!("metrics: {error}"))
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Runs the command of `cli`, and reports how that ended.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    stack::on_large_stack(|| run_here(cli))
        .unwrap_or_else(|error| report(&CommandError::Failed(format!("the main thread: {error}"))))
}

fn run_here(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&CommandError::Failed(format!("no threads for the runtime: {error}"))),
    };
    let status = match runtime.block_on(dispatch(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    };
    // What still waits for a disk may wait for ever.
    runtime.shutdown_timeout(Duration::from_secs(1));
    status
}

async fn dispatch(cli: Cli) -> Result<(), CommandError> {
    match &cli.command {
        Command::Schema(args) => return schema::run(args),
        Command::Log(args) => return log::run(args),
        _ => {}
    }
    // A demo is for a person: it is quiet, and what it says is text, unless that is set.
    let quiet = matches!(cli.command, Command::Demo(_));
    let loaded = cli.global.load(if quiet {
        &["telemetry.log_format=text", "telemetry.log_level=warn"]
    } else {
        &[]
    })?;
    let level = telemetry::logs::init(&loaded.config.telemetry);
    match cli.command {
        Command::Run => run::run(&loaded, level).await,
        Command::Demo(args) => demo::run(&cli.global, &args).await,
        Command::Sandbox(args) => sandbox::run(&loaded, args).await,
        Command::Emit(args) => emit::run(&loaded, &args).await,
        Command::Check(args) => check::run(&loaded, &args).await,
        Command::Topology(args) => topology::run(&loaded, &args).await,
        Command::Schema(args) => schema::run(&args),
        Command::Dead(args) => dead::run(&loaded, &args).await,
        Command::Health(args) => health::run(&loaded, &args).await,
        Command::Log(args) => log::run(&args),
    }
}

impl Global {
    /// The configuration, with `defaults` below all other flags.
    fn load(&self, defaults: &[&str]) -> Result<Loaded, ConfigError> {
        self.load_over(defaults, &[])
    }

    /// The configuration, with `more` over everything.
    fn load_with(&self, more: &[String]) -> Result<Loaded, ConfigError> {
        self.load_over(&[], more)
    }

    fn load_over(&self, defaults: &[&str], more: &[String]) -> Result<Loaded, ConfigError> {
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => environment.push((name, value)),
                Err(_) if name.starts_with("ICW_") => {
                    return Err(ConfigError::new(format!("environment {name}: expected UTF-8")));
                }
                Err(_) => {}
            }
        }
        let named = environment.iter().find(|(name, value)| name == "ICW_CONFIG" && !value.is_empty());
        config::load(&Sources {
            defaults: defaults.iter().map(|flag| (*flag).to_owned()).collect(),
            file: self.config.clone().or_else(|| named.map(|(_, value)| value.into())),
            environment,
            flags: self.set.iter().chain(more).cloned().collect(),
        })
    }
}

fn report(failure: &CommandError) -> ExitCode {
    // Where standard error is gone nobody can be told.
    _ = writeln!(io::stderr(), "error: {}", masked(&failure.to_string()));
    match failure {
        CommandError::Usage(_) => ExitCode::from(2),
        CommandError::Failed(_) => ExitCode::FAILURE,
    }
}

/// Writes a line to standard output. A reader that has gone away (`| head`) is no failure of ours.
fn say(line: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    match out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// `value` as JSON, on standard output.
fn say_json(value: &impl serde::Serialize) -> Result<(), CommandError> {
    say(&serde_json::to_string_pretty(value).map_err(|error| CommandError::Failed(error.to_string()))?)
}
