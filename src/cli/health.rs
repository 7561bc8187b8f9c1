//! `health`: asks a running worker, on its admin port, whether it is ready or alive. For `HEALTHCHECK` and compose: the
//! image has no HTTP client.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::Deserialize;

use super::CommandError;
use crate::{config::Loaded, tls};

/// For the whole answer.
const LIMIT: Duration = Duration::from_secs(3);
/// Largest answer that is read, in bytes; a worker's has some 600.
const BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Ask whether the worker is alive (/livez), not whether it is ready (/readyz)
    #[arg(long)]
    live: bool,
}

/// The worker's answer.
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
        let problem = "admin.listen: empty, so the worker serves no health; set it to an address such as 127.0.0.1:9464";
        return Err(CommandError::Usage(problem.to_owned()));
    };
    let (path, state) = if args.live { ("livez", "alive") } else { ("readyz", "ready") };
    let address = reachable(listen);
    let answer = tokio::time::timeout(LIMIT, ask(address, path)).await;
    let answer = answer.map_err(|_| no_answer(address, "no answer within 3 s"))??;
    let failed = answer.checks.iter().filter(|(_, check)| !check.ok);
    let failed: Vec<_> = failed.map(|(name, check)| format!("{name}: {}", check.detail)).collect();
    if answer.ok { Ok(()) } else { Err(CommandError::Failed(format!("not {state}: {}", failed.join("; ")))) }
}

/// Where a server that listens on `listen` is reached on this machine: a wildcard means loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let loopback = match listen {
        SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    if listen.ip().is_unspecified() { SocketAddr::new(loopback, listen.port()) } else { listen }
}

async fn ask(address: SocketAddr, path: &str) -> Result<HealthAnswer, CommandError> {
    let failed = |_| no_answer(address, "no connection, or it broke off");
    // No TLS is spoken, yet the client wants to know by whose means.
    _ = rustls::crypto::CryptoProvider::install_default((*tls::provider()).clone());
    let client = reqwest::Client::builder().no_proxy().build().map_err(failed)?;
    let mut response = client.get(format!("http://{address}/{path}")).send().await.map_err(failed)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > BYTES_MAX {
            return Err(no_answer(address, "more than 64 KiB"));
        }
    }
    serde_json::from_slice(&body).map_err(|_| no_answer(address, "not a worker's answer"))
}

fn no_answer(address: SocketAddr, problem: &str) -> CommandError {
    CommandError::Failed(format!(
        "no answer of a worker on {address} ({problem}); check that it runs, and that admin.listen is its own"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_address_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:9464", "127.0.0.1:9464"),
            ("[::]:9464", "[::1]:9464"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("10.1.2.3:9464", "10.1.2.3:9464"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
