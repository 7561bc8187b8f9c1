//! Settings that lose, show or open something.

use std::{net::SocketAddr, path::Path};

use secrecy::ExposeSecret;
use url::Url;

use super::{Finding, on};
use crate::{
    config::{
        LedgerChoice, LedgerOnFailure, Loaded, LogLevel,
        load::{Origin, SECRETS},
    },
    endpoint::url::is_loopback,
    ledger::LedgerKind,
};

/// Folders that are emptied, by a restart at the latest.
const PASSING: [&str; 5] = ["/tmp", "/var/tmp", "/dev/shm", "/run", "/var/run"];

pub(super) fn all(loaded: &Loaded) -> Vec<Finding> {
    let mut found =
        vec![ledger(loaded), without_ledger(loaded), forgotten(loaded), admin(loaded), devices(loaded)];
    found.extend(unused(loaded));
    found.extend(tokens(loaded));
    found.extend(flags(loaded));
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
        LedgerKind::Memory => on(loaded, &["ledger.kind"]).warn(
            "what was done is forgotten when the worker ends: an event that comes again after that is served again, and \
             its expert told again",
            "set ledger.kind to file, with ledger.path on a lasting volume, or to redis",
        ),
        LedgerKind::Redis { .. } => on(loaded, &["ledger.kind"]).pass("shared by all workers with this prefix"),
        LedgerKind::File { path } => file(loaded, &path),
    }
}

fn file(loaded: &Loaded, path: &Path) -> Finding {
    let about = on(loaded, &["ledger.kind", "ledger.path"]);
    let advice = "set ledger.path to a file on a volume that outlives the worker, by its whole path";
    if path.is_relative() {
        let detail = format!(
            "{} is in the working directory: a worker that starts elsewhere, or in a new container, begins with an empty one",
            path.display()
        );
        return about.warn(detail, advice);
    }
    if PASSING.iter().any(|folder| path.starts_with(folder)) {
        return about.warn("it is in a folder that is emptied, by a restart at the latest", advice);
    }
    about.pass("for this worker alone; its volume must outlive the worker")
}

fn without_ledger(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["ledger.on_failure"]);
    match loaded.config.ledger.on_failure {
        LedgerOnFailure::Wait => about.pass("while the ledger is down events wait"),
        LedgerOnFailure::Continue => about.warn(
            "while the ledger is down an event that comes twice is served twice, its devices called and its expert told twice",
            "set ledger.on_failure to wait, where that is worse than a pause",
        ),
    }
}

fn forgotten(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["ledger.keep_max", "ledger.margin", "instant_connect.link_lifetime"]);
    let (ledger, lifetime) = (&loaded.config.ledger, loaded.config.instant_connect.link_lifetime.get());
    let needed = lifetime.saturating_add(ledger.margin.get());
    if ledger.keep_max.get() >= needed {
        return about.pass("what was done is known for as long as links are valid, and somewhat longer");
    }
    about.warn(
        "what was done is forgotten while the links are still valid: an event that comes again after that is served again, \
         its devices called and its expert told again",
        format!("set ledger.keep_max to {needed:?} or more"),
    )
}

/// What is given, and has no effect.
fn unused(loaded: &Loaded) -> Vec<Finding> {
    let (ledger, hosts) = (&loaded.config.ledger, &loaded.config.hosts);
    let mut found = Vec::new();
    let mut say = |key: &str, other: &str| {
        let advice = format!("take {key} away, or change {other}");
        found.push(on(loaded, &[key, other]).warn(format!("{key} is given and has no effect"), advice));
    };
    if ledger.kind != LedgerChoice::File && ledger.path.is_some() {
        say("ledger.path", "ledger.kind");
    }
    if ledger.kind != LedgerChoice::Redis && !ledger.url.expose_secret().is_empty() {
        say("ledger.url", "ledger.kind");
    }
    if ledger.kind != LedgerChoice::Redis && ledger.url_file.is_some() {
        say("ledger.url_file", "ledger.kind");
    }
    if !loaded.delivers_to_hosts() && !hosts.token.expose_secret().is_empty() {
        say("hosts.token", "hosts.delivery");
    }
    if !loaded.delivers_to_hosts() && hosts.token_file.is_some() {
        say("hosts.token_file", "hosts.delivery");
    }
    found
}

fn admin(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["admin.listen"]);
    match loaded.config.admin.listen {
        None => about.warn(
            "nobody can ask whether the worker lives, serves, and how: no probes, no metrics, no alerts",
            "set admin.listen to an address that the orchestrator and Prometheus reach, and nobody else",
        ),
        Some(address) if is_closed(address) => about.pass("reachable from this machine alone"),
        Some(_) => about.warn(
            "whoever reaches this address may read metrics and readiness, without a password (nothing private is in them)",
            "let nobody but the orchestrator and Prometheus reach it (a network policy, a firewall)",
        ),
    }
}

fn is_closed(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn devices(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["devices.allowed"]);
    if loaded.config.devices.allowed.is_empty() {
        about.pass("no event may name a room device; one that does is a dead letter (device-not-allowed)")
    } else {
        about.pass("events may have these room devices called, which answer without anybody's doing")
    }
}

fn tokens(loaded: &Loaded) -> Vec<Finding> {
    let (instant_connect, hosts) = (&loaded.config.instant_connect.token, &loaded.config.hosts.token);
    let inline = [("instant_connect.token", instant_connect), ("hosts.token", hosts)];
    let given = inline.into_iter().filter(|(_, token)| !token.expose_secret().is_empty());
    given
        .map(|(key, _)| {
            on(loaded, &[key]).warn(
                "read once: after a rotation the worker keeps the old token until it is restarted",
                format!("set {key}_file to a file that holds it, which is read again when it changes"),
            )
        })
        .collect()
}

fn flags(loaded: &Loaded) -> Vec<Finding> {
    let shown = SECRETS.into_iter().filter(|key| loaded.settings.origin(key) == Some(&Origin::Flag));
    shown
        .map(|key| {
            on(loaded, &[key]).warn(
                "given with --set, it shows in this machine's list of processes and in shells' histories",
                "give it by a file or by the environment",
            )
        })
        .collect()
}

fn insecure(loaded: &Loaded) -> Vec<Finding> {
    let config = &loaded.config;
    let all = [
        ("amqp.allow_insecure", config.amqp.allow_insecure, "the broker's password"),
        ("instant_connect.allow_insecure", config.instant_connect.allow_insecure, "the token and the links"),
        ("hosts.allow_insecure", config.hosts.allow_insecure, "the token and the hosts' links"),
        ("ledger.allow_insecure", config.ledger.allow_insecure, "Redis's password and the links"),
    ];
    if all.iter().all(|(_, allowed, _)| !allowed) {
        let keys = all.map(|(key, ..)| key);
        return vec![on(loaded, &keys).pass("no secret leaves this machine or cluster without TLS")];
    }
    let allowed = all.into_iter().filter(|(_, allowed, _)| *allowed);
    allowed
        .map(|(key, _, what)| {
            on(loaded, &[key]).warn(
                format!("{what} may cross a network in the clear, where the URL says so or is changed to"),
                format!("use TLS, and take {key} away"),
            )
        })
        .collect()
}

fn host_login(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["instant_connect.host_login"]);
    if loaded.config.instant_connect.host_login {
        return about.pass("hosts sign in, where an event does not say otherwise");
    }
    about.warn(
        "whoever holds a host link is the host of that visit, where an event does not say otherwise",
        "set instant_connect.host_login to true, unless hosts can't sign in",
    )
}

fn short_links(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["instant_connect.short_urls", "instant_connect.allowed_base_urls"]);
    let section = &loaded.config.instant_connect;
    match (section.short_urls, section.allowed_base_urls.is_empty()) {
        (true, true) => about.fail(
            "short links are asked for, and none is believed: no session can be served",
            "list what Webex's short links begin with in instant_connect.allowed_base_urls",
        ),
        (true, false) => about.pass("short links are asked for, and believed where they begin like this"),
        (false, _) => about.warn(
            "long links hold a whole cipher, and are too long for an SMS",
            "set instant_connect.short_urls to true, unless no guest comes by SMS",
        ),
    }
}

fn both_apis(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["instant_connect.url", "hosts.webex_url"]);
    let (instant_connect, webex) = (&loaded.config.instant_connect.url, &loaded.config.hosts.webex_url);
    if !loaded.delivers_to_hosts() || is_loopback(instant_connect) == is_loopback(webex) {
        return about.pass("both are real, or both are faked here");
    }
    about.warn(
        format!(
            "one is on this machine and the other is not: {} links reach experts",
            real_or_faked(instant_connect)
        ),
        "use a sandbox for both or for none",
    )
}

fn real_or_faked(instant_connect: &Url) -> &'static str {
    if is_loopback(instant_connect) { "faked" } else { "no" }
}

fn spans(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["telemetry.otlp_endpoint"]);
    match &loaded.config.telemetry.otlp_endpoint {
        None => about.pass("no spans are sent; traceparent is passed on as it comes"),
        Some(_) => about.pass("spans, which hold nothing private, are sent there"),
    }
}

fn log_level(loaded: &Loaded) -> Finding {
    let about = on(loaded, &["telemetry.log_level"]);
    match loaded.config.telemetry.log_level {
        LogLevel::Error => about.warn(
            "dead letters, lost connections and what became of each event are not in the log",
            "set telemetry.log_level to info",
        ),
        LogLevel::Warn => {
            about.warn("what became of each event is not in the log", "set telemetry.log_level to info")
        }
        LogLevel::Info => about.pass("each event's end and each change of state are in the log"),
        LogLevel::Debug => about.warn(
            "each step of each event is in the log, several lines for every one",
            "set telemetry.log_level to info; SIGUSR1 has a running worker say more",
        ),
    }
}
