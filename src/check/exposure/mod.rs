//! Settings that lose data, show secrets or open access.
//!
//! - `entries`: settings that lose ledger entries
//! - `secrets`: settings that show secrets or hinder their rotation

mod entries;
mod secrets;

use std::net::SocketAddr;

use secrecy::ExposeSecret;
use url::Url;

use super::{
    CheckGroup::{self, Exposure, InstantConnect, Ledger, Telemetry, Webex},
    Finding, on,
};
use crate::{
    config::{LedgerChoice, Loaded},
    endpoint::url::is_loopback,
    ingress::config::AddressBlock,
    telemetry::logs::LogLevel,
};

pub(super) fn all(loaded: &Loaded) -> Vec<Finding> {
    let mut found = entries::all(loaded);
    found.extend([admin(loaded), devices(loaded), experts(loaded), ingress(loaded)]);
    found.extend(secrets::client_tokens(loaded));
    found.extend(address_blocks(loaded));
    found.extend(unused(loaded));
    found.extend(secrets::all(loaded));
    found.extend([
        host_login(loaded),
        short_links(loaded),
        both_apis(loaded),
        spans(loaded),
        log_level(loaded),
    ]);
    found
}

/// Settings that are set but have no effect.
fn unused(loaded: &Loaded) -> Vec<Finding> {
    let (ledger, hosts) = (&loaded.config.ledger, &loaded.config.hosts);
    let mut found = Vec::new();
    let mut unused = |group: CheckGroup, key: &str, other: &str| {
        let advice = format!("remove {key}, or change {other}");
        found.push(on(group, loaded, &[key, other]).warn(format!("{key} is set but has no effect"), advice));
    };
    if ledger.kind != LedgerChoice::File && ledger.path.is_some() {
        unused(Ledger, "ledger.path", "ledger.kind");
    }
    if ledger.kind != LedgerChoice::Redis && !ledger.url.expose_secret().is_empty() {
        unused(Ledger, "ledger.url", "ledger.kind");
    }
    if ledger.kind != LedgerChoice::Redis && ledger.url_file.is_some() {
        unused(Ledger, "ledger.url_file", "ledger.kind");
    }
    if !loaded.delivers_to_hosts() && !hosts.token.expose_secret().is_empty() {
        unused(Webex, "hosts.token", "hosts.delivery");
    }
    if !loaded.delivers_to_hosts() && hosts.token_file.is_some() {
        unused(Webex, "hosts.token_file", "hosts.delivery");
    }
    found
}

fn admin(loaded: &Loaded) -> Finding {
    let about = on(Exposure, loaded, &["admin.listen"]);
    match loaded.config.admin.listen {
        None => about.warn(
            "the admin server is off: no health probes, no metrics, no alerts",
            "set admin.listen to an address that only the orchestrator and Prometheus can reach",
        ),
        Some(address) if is_loopback_address(address) => about.pass("reachable only from this machine"),
        Some(_) => about.warn(
            "anyone who reaches this address can read metrics and health without a password (they contain nothing private)",
            "allow only the orchestrator and Prometheus to reach it (network policy or firewall)",
        ),
    }
}

fn ingress(loaded: &Loaded) -> Finding {
    let about = on(Exposure, loaded, &["ingress.listen"]);
    match (loaded.ingress(), loaded.config.ingress.listen) {
        (Err(error), _) => about.fail(
            error.to_string(),
            "correct the file that is named, and give each client tokens and secrets of its own",
        ),
        (Ok(_), None) => about.pass("the HTTP ingress is off"),
        (Ok(_), Some(address)) if is_loopback_address(address) => {
            about.pass("reachable only from this machine")
        }
        (Ok(_), Some(_)) => {
            about.pass(
                "clients with a token or a signing secret can start sessions from wherever they reach this address",
            )
        }
    }
}

/// Lists of addresses that contain every address.
fn address_blocks(loaded: &Loaded) -> Vec<Finding> {
    let section = &loaded.config.ingress;
    let proxies = (
        "ingress.trusted_proxies".to_owned(),
        &section.trusted_proxies,
        "every client may state its address in X-Forwarded-For",
        "list the proxies only",
    );
    let clients = section.clients.iter().map(|(name, client)| {
        let key = format!("ingress.clients.{name}.allowed_addresses");
        (key, &client.allowed_addresses, "the client may call from every address", "list its addresses only")
    });
    let lists = std::iter::once(proxies).chain(clients);
    let everything = lists.filter(|(_, blocks, ..)| blocks.iter().any(AddressBlock::is_everything));
    everything
        .map(|(key, _, effect, advice)| {
            on(Exposure, loaded, &[&key]).warn(format!("a block of length /0: {effect}"), advice)
        })
        .collect()
}

fn is_loopback_address(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn devices(loaded: &Loaded) -> Finding {
    let about = on(Exposure, loaded, &["devices.allowed"]);
    if loaded.config.devices.allowed.is_empty() {
        about.pass(
            "no devices are allowed; an event that names one becomes a dead letter (device-not-allowed)",
        )
    } else {
        about.pass("events may dial the devices of this list, which answer by themselves")
    }
}

fn experts(loaded: &Loaded) -> Finding {
    let about = on(Exposure, loaded, &["hosts.allowed"]);
    if !loaded.config.hosts.allowed.allow_all() {
        return about.pass("only the experts of this list get host links");
    }
    if loaded.config.ingress.listen.is_none() {
        return about.pass("any expert that an event names gets a host link");
    }
    about.warn(
        "with a token of the ingress, host links can be sent to every e-mail address and space",
        "list the experts' domains in hosts.allowed",
    )
}

fn host_login(loaded: &Loaded) -> Finding {
    let about = on(Exposure, loaded, &["instant_connect.host_login"]);
    if loaded.config.instant_connect.host_login {
        return about.pass("hosts must sign in unless their event sets hostLogin to false");
    }
    about.warn(
        "anyone with a host link can host that visit unless its event sets hostLogin to true",
        "set instant_connect.host_login to true unless hosts cannot sign in",
    )
}

fn short_links(loaded: &Loaded) -> Finding {
    let about =
        on(InstantConnect, loaded, &["instant_connect.short_urls", "instant_connect.allowed_base_urls"]);
    let section = &loaded.config.instant_connect;
    match (section.short_urls, section.allowed_base_urls.is_empty()) {
        (true, true) => about.fail(
            "short URLs are requested but none is accepted; every session will fail",
            "list the base URLs of Webex's short links in instant_connect.allowed_base_urls",
        ),
        (true, false) => about.pass("short URLs are requested and accepted if they start with one of these"),
        (false, _) => about.warn(
            "long links contain the whole ciphertext and do not fit into an SMS",
            "set instant_connect.short_urls to true unless no guest uses SMS",
        ),
    }
}

fn both_apis(loaded: &Loaded) -> Finding {
    let about = on(InstantConnect, loaded, &["instant_connect.url", "hosts.webex_url"]);
    let (instant_connect, webex) = (&loaded.config.instant_connect.url, &loaded.config.hosts.webex_url);
    if !loaded.delivers_to_hosts() || is_loopback(instant_connect) == is_loopback(webex) {
        return about.pass("both APIs are real, or both are on this machine");
    }
    about.warn(
        format!(
            "only one of the two APIs is on this machine: experts get {}",
            received_links(instant_connect)
        ),
        "use a sandbox for both APIs or for neither",
    )
}

fn received_links(instant_connect: &Url) -> &'static str {
    if is_loopback(instant_connect) { "simulated links" } else { "no links" }
}

fn spans(loaded: &Loaded) -> Finding {
    let about = on(Telemetry, loaded, &["telemetry.otlp_endpoint"]);
    match &loaded.config.telemetry.otlp_endpoint {
        None => about.pass("no spans are sent; traceparent is forwarded unchanged"),
        Some(_) => about.pass("spans are sent there; they contain nothing private"),
    }
}

fn log_level(loaded: &Loaded) -> Finding {
    let about = on(Telemetry, loaded, &["telemetry.log_level"]);
    match loaded.config.telemetry.log_level {
        LogLevel::Error => about.warn(
            "the log omits dead letters, lost connections and the outcome of each event",
            "set telemetry.log_level to info",
        ),
        LogLevel::Warn => {
            about.warn("the log omits the outcome of each event", "set telemetry.log_level to info")
        }
        LogLevel::Info => about.pass("the log has the outcome of each event and each change of state"),
        LogLevel::Debug => about.warn(
            "the log has several lines for each event",
            "set telemetry.log_level to info; SIGUSR1 switches a running worker to debug logging",
        ),
    }
}
