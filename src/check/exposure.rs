//! Settings that lose data, show secrets or open access.

use std::{net::SocketAddr, path::Path};

use secrecy::ExposeSecret;
use url::Url;

use super::{
    CheckGroup::{self, Exposure, InstantConnect, Ledger, Telemetry, Webex},
    Finding, on,
};
use crate::{
    config::{
        LedgerChoice, Loaded,
        settings::{Origin, is_secret},
    },
    endpoint::url::is_loopback,
    ingress::config::AddressBlock,
    ledger::LedgerKind,
    stages::OnFailure,
    telemetry::logs::LogLevel,
};

/// Folders that a restart may empty.
const TEMPORARY_FOLDERS: [&str; 5] = ["/tmp", "/var/tmp", "/dev/shm", "/run", "/var/run"];

pub(super) fn all(loaded: &Loaded) -> Vec<Finding> {
    let mut found =
        vec![ledger(loaded), ledger_outage(loaded), retention(loaded), admin(loaded), devices(loaded)];
    found.push(ingress(loaded));
    found.extend(client_tokens(loaded));
    found.extend(address_blocks(loaded));
    found.extend(unused(loaded));
    found.extend(inline_tokens(loaded));
    found.extend(secrets_in_flags(loaded));
    found.extend(insecure(loaded));
    found.extend([
        host_login(loaded),
        short_links(loaded),
        both_apis(loaded),
        spans(loaded),
        log_level(loaded),
    ]);
    found
}

fn ledger(loaded: &Loaded) -> Finding {
    match loaded.ledger() {
        LedgerKind::Memory | LedgerKind::Recent { .. } => on(Ledger, loaded, &["ledger.kind"]).warn(
            "the ledger is lost when the worker stops: an event that is repeated later is processed again: its guests and \
             experts get new messages, and its devices are dialled again",
            "set ledger.kind to file, with ledger.path on a persistent volume, or to redis",
        ),
        LedgerKind::Redis { .. } => on(Ledger, loaded, &["ledger.kind"]).pass("shared by all workers with this prefix"),
        LedgerKind::File { path } => file(loaded, &path),
    }
}

fn file(loaded: &Loaded, path: &Path) -> Finding {
    let about = on(Ledger, loaded, &["ledger.kind", "ledger.path"]);
    let advice = "set ledger.path to the absolute path of a file on a persistent volume";
    if path.is_relative() {
        let detail = format!(
            "{} is relative to the working directory: a worker in another directory or a new container starts with an empty ledger",
            path.display()
        );
        return about.warn(detail, advice);
    }
    if TEMPORARY_FOLDERS.iter().any(|folder| path.starts_with(folder)) {
        return about.warn("the file is in a temporary folder; a restart may empty it", advice);
    }
    about.pass("used by this worker only; its volume must be persistent")
}

fn ledger_outage(loaded: &Loaded) -> Finding {
    let about = on(Ledger, loaded, &["ledger.on_failure"]);
    match loaded.config.ledger.on_failure {
        OnFailure::Wait => about.pass("events wait while the ledger is unavailable"),
        OnFailure::Continue => about.warn(
            "while the ledger is unavailable, a repeated event is processed again: its guests and experts get new messages, and its devices are dialled again",
            "set ledger.on_failure to wait if duplicates are worse than a pause",
        ),
    }
}

fn retention(loaded: &Loaded) -> Finding {
    let about = on(Ledger, loaded, &["ledger.keep_max", "ledger.margin", "instant_connect.link_lifetime"]);
    let (ledger, lifetime) = (&loaded.config.ledger, loaded.config.instant_connect.link_lifetime.get());
    let needed = lifetime.saturating_add(ledger.margin.get());
    if ledger.keep_max.get() >= needed {
        return about.pass("ledger entries outlive the links");
    }
    about.warn(
        "ledger entries expire while the links are still valid: an event that is repeated later is processed again: its guests and \
         experts get new messages, and its devices are dialled again",
        format!("set ledger.keep_max to at least {needed:?}"),
    )
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
        (Err(error), _) => about
            .fail(error.to_string(), "correct the client's token_file, and give each client its own tokens"),
        (Ok(_), None) => about.pass("the HTTP ingress is off"),
        (Ok(_), Some(address)) if is_loopback_address(address) => {
            about.pass("reachable only from this machine")
        }
        (Ok(_), Some(_)) => {
            about.pass("clients with a token can start sessions from wherever they reach this address")
        }
    }
}

/// Clients whose token can't rotate without a restart.
fn client_tokens(loaded: &Loaded) -> Vec<Finding> {
    let clients = &loaded.config.ingress.clients;
    let fixed = clients.iter().filter(|(_, client)| client.token_file.is_none());
    fixed
        .map(|(name, _)| {
            on(Exposure, loaded, &[&format!("ingress.clients.{name}.token_file")]).warn(
                "the client's token is read only at startup: it cannot rotate without a restart",
                "set token_file to a file with one or two tokens, or with their digests",
            )
        })
        .collect()
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

fn inline_tokens(loaded: &Loaded) -> Vec<Finding> {
    let (instant_connect, hosts) = (&loaded.config.instant_connect.token, &loaded.config.hosts.token);
    let inline = [(InstantConnect, "instant_connect.token", instant_connect), (Webex, "hosts.token", hosts)];
    let given = inline.into_iter().filter(|(_, _, token)| !token.expose_secret().is_empty());
    given
        .map(|(group, key, _)| {
            on(group, loaded, &[key]).warn(
                "read only at startup: after a rotation the worker uses the old token until it is restarted",
                format!("set {key}_file to a file with the token; the worker reads it again when it changes"),
            )
        })
        .collect()
}

fn secrets_in_flags(loaded: &Loaded) -> Vec<Finding> {
    let exposed =
        loaded.settings.rows().filter(|(key, _, origin)| is_secret(key) && **origin == Origin::Flag);
    exposed
        .map(|(key, ..)| {
            on(Exposure, loaded, &[key]).warn(
                "passed with --set: visible in the process list and shell history",
                "pass it in a file or an environment variable",
            )
        })
        .collect()
}

fn insecure(loaded: &Loaded) -> Vec<Finding> {
    let config = &loaded.config;
    let all = [
        ("amqp.allow_insecure", config.amqp.allow_insecure, "the broker's password"),
        ("instant_connect.allow_insecure", config.instant_connect.allow_insecure, "the token and the links"),
        ("hosts.allow_insecure", config.hosts.allow_insecure, "the token and the host links"),
        ("ledger.allow_insecure", config.ledger.allow_insecure, "Redis's password and the links"),
        ("ingress.allow_insecure", config.ingress.allow_insecure, "the clients' tokens and the events"),
    ];
    if all.iter().all(|(_, allowed, _)| !allowed) {
        let keys = all.map(|(key, ..)| key);
        return vec![
            on(Exposure, loaded, &keys).pass("no secret leaves this machine or cluster without TLS"),
        ];
    }
    let allowed = all.into_iter().filter(|(_, allowed, _)| *allowed);
    allowed
        .map(|(key, _, what)| {
            on(Exposure, loaded, &[key]).warn(
                format!("{what} may be sent unencrypted if the URL allows it"),
                format!("use TLS and remove {key}"),
            )
        })
        .collect()
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
