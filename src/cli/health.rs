//! `health`: reads a running worker's readiness or liveness from its admin port. For `HEALTHCHECK` and compose, because the
//! image has no HTTP client.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::Deserialize;

use super::CommandError;
use crate::{config::Loaded, tls};

/// Time limit for the whole response.
const LIMIT: Duration = Duration::from_secs(3);
/// Maximum size of the response, in bytes; a worker sends about 600.
const BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Check liveness (/livez) instead of readiness (/readyz)
    #[arg(long)]
    live: bool,
}

/// The worker's response.
#[derive(Deserialize)]
struct HealthAnswer {
    ok: bool,
    checks: BTreeMap<String, HealthFinding>,
}

#[derive(Deserialize)]
struct HealthFinding {
    ok: bool,
    detail: String,
}

pub(super) async fn run(loaded: &Loaded, args: &Args) -> Result<(), CommandError> {
    let Some(listen) = loaded.config.admin.listen else {
        let problem =
            "admin.listen is off, so there are no health checks; set it to an address such as 127.0.0.1:9464";
        return Err(CommandError::Usage(problem.to_owned()));
    };
    let (path, state) = if args.live { ("livez", "alive") } else { ("readyz", "ready") };
    let address = reachable(listen);
    let answer = tokio::time::timeout(LIMIT, ask(address, path)).await;
    let answer = answer.map_err(|_| no_answer(address, "no response within 3 s"))??;
    let failed = answer.checks.iter().filter(|(_, check)| !check.ok);
    let failed: Vec<_> = failed.map(|(name, check)| format!("{name}: {}", check.detail)).collect();
    if answer.ok { Ok(()) } else { Err(CommandError::Failed(format!("not {state}: {}", failed.join("; ")))) }
}

/// The address that reaches a server on `listen` from this machine: loopback for a wildcard.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let loopback = match listen {
        SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    if listen.ip().is_unspecified() { SocketAddr::new(loopback, listen.port()) } else { listen }
}

async fn ask(address: SocketAddr, path: &str) -> Result<HealthAnswer, CommandError> {
    let failed = |_| no_answer(address, "connection failed or was interrupted");
    // The client needs a TLS provider even though no TLS is used. An error means that one is installed already.
    _ = rustls::crypto::CryptoProvider::install_default((*tls::provider()).clone());
    let client = reqwest::Client::builder().no_proxy().build().map_err(failed)?;
    let mut response = client.get(format!("http://{address}/{path}")).send().await.map_err(failed)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > BYTES_MAX {
            return Err(no_answer(address, "the response is larger than 64 KiB"));
        }
    }
    serde_json::from_slice(&body).map_err(|_| no_answer(address, "not the response of a worker"))
}

fn no_answer(address: SocketAddr, problem: &str) -> CommandError {
    CommandError::Failed(format!(
        "no response from a worker on {address}: {problem}; hint: check that the worker runs and that admin.listen is its address"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcard_address_is_reached_on_loopback() {
        for (listen, expected) in [
            ("0.0.0.0:9464", "127.0.0.1:9464"),
            ("[::]:9464", "[::1]:9464"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("10.1.2.3:9464", "10.1.2.3:9464"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), expected.parse().unwrap());
        }
    }
}
