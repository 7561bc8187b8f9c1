//! `sandbox`: serves simulated Instant Connect and Webex Messages APIs.

use std::{net::SocketAddr, time::Instant};

use instant_connect_sandbox::{FaultRule, Sandbox, SandboxError, SandboxOptions};
use secrecy::SecretString;
use tracing::info;
use url::Url;

use super::{CommandError, phones, say, signals};
use crate::{broker::reconnect::ReconnectBackoff, config::Loaded, contract::link::GUESTS, random::Random};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Listen address; port 0 selects a free port
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Allow listen addresses other than loopback; anyone who reaches the sandbox sees all links
    #[arg(long)]
    allow_any_address: bool,
    /// Accepted bearer token
    #[arg(long, default_value = "sandbox-token", value_name = "TOKEN")]
    token: SecretString,
    /// Password that decrypts the links' ciphertext
    #[arg(long, default_value = "sandbox-password", value_name = "PASSWORD")]
    password: SecretString,
    /// Base URL of short links (default: the sandbox's own address)
    #[arg(long, value_name = "URL")]
    base_url: Option<Url>,
    /// Fault to inject, such as joseencrypt:status=429,retry-after=7,times=3; repeatable
    #[arg(long, value_name = "FAULT")]
    fault: Vec<FaultRule>,
    /// Also consume guest links from the broker and show the texts that guests would receive
    #[arg(long)]
    phones: bool,
}

impl From<SandboxError> for CommandError {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::NotLoopback(_) | SandboxError::BaseUrl => Self::Usage(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

pub(super) async fn run(loaded: &Loaded, args: Args) -> Result<(), CommandError> {
    let options = SandboxOptions {
        listen: args.listen,
        allow_any_address: args.allow_any_address,
        token: args.token,
        password: args.password,
        base_url: args.base_url,
    };
    let sandbox = Sandbox::bind(options).await?;
    let handle = sandbox.handle();
    args.fault.into_iter().for_each(|rule| handle.fault(rule));
    say(&format!("sandbox {}", sandbox.url()))?;
    info!(address = %sandbox.addr(), "sandbox listening");
    let phones = async {
        if !args.phones {
            return std::future::pending().await;
        }
        let connector = loaded.config.connector();
        let queue = loaded.config.topology().queue(&GUESTS);
        let mut backoff = ReconnectBackoff::new(connector.limits.reconnect_max, Random::system());
        loop {
            let begun = Instant::now();
            if let Err(error) = phones::forward(&connector, &queue, &handle, |_| {}).await
                && backoff.failed(begun.elapsed() >= connector.limits.reconnect_max, error.reason())
            {
                tracing::warn!(%error, "could not consume the guest queue; retrying (phones page is offline)");
            }
            tokio::time::sleep(backoff.wait()).await;
        }
    };
    tokio::select! {
        served = sandbox.serve(signals::shutdown()?) => served.map_err(|error| CommandError::Failed(error.to_string())),
        () = phones => Ok(()),
    }
}
