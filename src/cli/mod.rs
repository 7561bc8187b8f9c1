//! The command line: one file for each subcommand. Data goes to standard output, everything else to standard error. Exit
//! status: 0 done, 1 failed, 2 wrong usage or configuration.

mod check;
mod dead;
#[cfg(feature = "sandbox")]
mod demo;
mod emit;
mod emit_http;
mod health;
mod log;
#[cfg(not(feature = "sandbox"))]
mod no_sandbox;
#[cfg(feature = "sandbox")]
mod phones;
mod progress;
mod run;
#[cfg(feature = "sandbox")]
mod sandbox;
mod schema;
mod signals;
pub mod stack;
mod token;
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
        help = "TOML file with settings that override the defaults [env: ICW_CONFIG]"
    )]
    config: Option<PathBuf>,
    /// Override one setting; repeatable
    #[arg(long = "set", global = true, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the worker
    Run(run::Args),
    /// Show one session end to end on a sandbox: the messages that each person receives
    #[cfg(feature = "sandbox")]
    Demo(demo::Args),
    /// Serve simulated APIs of Instant Connect, Webex Messages and Webex Connect
    #[cfg(feature = "sandbox")]
    Sandbox(sandbox::Args),
    #[cfg(not(feature = "sandbox"))]
    #[command(hide = true, alias = "sandbox", disable_help_flag = true)]
    Demo(no_sandbox::Args),
    /// Publish a start event
    Emit(emit::Args),
    /// Check the effective configuration and show it; with --connect, also test the connections
    Check(check::Args),
    /// Print the exchanges and queues, or declare them
    Topology(topology::Args),
    /// Print the JSON Schemas of the messages or of the settings
    Schema(schema::Args),
    /// List, show, replay or drop dead letters
    Dead(dead::Args),
    /// Check that a running worker is ready; if not, print the failed checks and exit with status 1
    Health(health::Args),
    /// Change the log level of a running worker
    Log(log::Args),
    /// Make a token or a signing secret for a client of the ingress
    Token(token::Args),
}

/// Reason of a failed command.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    /// Wrong usage or configuration: exit status 2.
    #[error("{0}")]
    Usage(String),
    /// Any other failure: exit status 1.
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
            WorkerError::Ingress(error) => Self::Usage(error.to_string()),
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

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Runs the command of `cli` and reports an error on standard error.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    stack::on_large_stack(|| run_here(cli))
        .unwrap_or_else(|error| report(&CommandError::Failed(format!("main thread: {error}"))))
}

fn run_here(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&CommandError::Failed(format!("cannot start the runtime: {error}"))),
    };
    let status = match runtime.block_on(dispatch(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    };
    // A task that waits for a disk may never return.
    runtime.shutdown_timeout(Duration::from_secs(1));
    status
}

async fn dispatch(cli: Cli) -> Result<(), CommandError> {
    match &cli.command {
        Command::Schema(args) => return schema::run(args),
        Command::Log(args) => return log::run(args),
        Command::Token(args) => return token::run(args),
        #[cfg(not(feature = "sandbox"))]
        Command::Demo(args) => return no_sandbox::run(args),
        _ => {}
    }
    let loaded = cli.global.load(cli.command.defaults(), &[])?;
    let level = telemetry::logs::init(loaded.config.telemetry.log_format, loaded.config.telemetry.log_level);
    match cli.command {
        Command::Run(args) => run::run(&loaded, &args, level).await,
        #[cfg(feature = "sandbox")]
        Command::Demo(args) => demo::run(&cli.global, &args).await,
        #[cfg(not(feature = "sandbox"))]
        Command::Demo(args) => no_sandbox::run(&args),
        #[cfg(feature = "sandbox")]
        Command::Sandbox(args) => sandbox::run(&loaded, args).await,
        Command::Emit(args) => emit::run(&loaded, &args).await,
        Command::Check(args) => check::run(&loaded, &args).await,
        Command::Topology(args) => topology::run(&loaded, &args).await,
        Command::Schema(args) => schema::run(&args),
        Command::Dead(args) => dead::run(&loaded, &args).await,
        Command::Health(args) => health::run(&loaded, &args).await,
        Command::Log(args) => log::run(&args),
        Command::Token(args) => token::run(&args),
    }
}

impl Command {
    /// Defaults of this command, above the built-in defaults.
    const fn defaults(&self) -> &'static [&'static str] {
        match self {
            // The demo logs only warnings, as text, because a person reads it.
            Self::Demo(_) => &["telemetry.log_format=text", "telemetry.log_level=warn"],
            _ => &[],
        }
    }
}

impl Global {
    /// Loads the configuration, with `defaults` below all other sources except the built-in defaults, and `more` above all.
    fn load(&self, defaults: &[&str], more: &[String]) -> Result<Loaded, ConfigError> {
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
    // An error here means that standard error is closed.
    _ = writeln!(io::stderr(), "error: {}", masked(&failure.to_string()));
    match failure {
        CommandError::Usage(_) => ExitCode::from(2),
        CommandError::Failed(_) => ExitCode::FAILURE,
    }
}

/// Writes a line to standard output. A closed pipe (`| head`) is not an error.
fn say(line: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    match out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes `value` to standard output as JSON.
fn say_json(value: &impl serde::Serialize) -> Result<(), CommandError> {
    say(&serde_json::to_string_pretty(value).map_err(|error| CommandError::Failed(error.to_string()))?)
}
