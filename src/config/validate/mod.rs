//! Rules between settings.

mod guests;
mod receipts;

use std::{path::Path, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{
    Auth, Config, LedgerChoice,
    settings::{ConfigError, Origin, Settings, is_path},
};
use crate::{
    endpoint::{
        broker_url,
        redis_url::redis_node,
        url::{is_local, read_url_file},
    },
    ingress::{
        client_signatures::{SIGNING_SECRET, is_signing_secret},
        client_tokens::{CLIENT_TOKEN, is_client_token},
    },
    tls::check_client_ca,
};

/// Validates the rules that involve more than one key.
pub(super) fn validate(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    http_url(
        settings,
        "instant_connect.url",
        &config.instant_connect.url,
        config.instant_connect.allow_insecure,
    )?;
    http_url(settings, "hosts.webex_url", &config.hosts.webex_url, config.hosts.allow_insecure)?;
    http_url(settings, "instant_connect.long_url_base", &config.instant_connect.long_url_base, false)?;
    if let Some(url) = &config.telemetry.otlp_endpoint {
        // Spans contain no secret and may be sent without TLS; `otel` checks the headers, which do.
        http_url(settings, "telemetry.otlp_endpoint", url, true)?;
    }
    broker(config, settings)?;
    if config.ledger.kind == LedgerChoice::Redis {
        redis(&config.ledger, settings)?;
    }
    if config.instant_connect.link_lifetime.get() < Duration::from_secs(60) {
        return Err(settings.error("instant_connect.link_lifetime", "expected at least one minute"));
    }
    file_paths(config, settings)?;
    tls(config, settings)?;
    token(
        settings,
        "instant_connect.token",
        &config.instant_connect.token,
        config.instant_connect.token_file.as_deref(),
    )?;
    token(settings, "hosts.token", &config.hosts.token, config.hosts.token_file.as_deref())?;
    guests::validate(config, settings)?;
    ingress(config, settings)?;
    receipts::validate(&config.receipts, settings)?;
    order_of_durations(config, settings)
}

/// Validates the settings of the ingress and of its clients.
fn ingress(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    let section = &config.ingress;
    let both = "expected both ingress.tls_cert_file and ingress.tls_key_file, but only this one is given";
    match (&section.tls_cert_file, &section.tls_key_file) {
        (Some(_), None) => return Err(settings.error("ingress.tls_cert_file", both)),
        (None, Some(_)) => return Err(settings.error("ingress.tls_key_file", both)),
        (None, None) if section.client_ca_file.is_some() => {
            let expected = "a client shows a certificate only with TLS: expected ingress.tls_cert_file and ingress.tls_key_file, too";
            return Err(settings.error("ingress.client_ca_file", expected));
        }
        _ => {}
    }
    for (name, client) in &section.clients {
        let key = |key: &str| format!("ingress.clients.{name}.{key}");
        for (file, path) in
            [("token_file", &client.token_file), ("signing_secret_file", &client.signing_secret_file)]
        {
            if path.as_ref().is_some_and(|path| !is_path(&path.to_string_lossy())) {
                return Err(settings.error(&key(file), PATH));
            }
        }
        let token = client.token.expose_secret();
        if !token.is_empty() && !is_client_token(token) {
            return Err(settings.error(&key("token"), CLIENT_TOKEN));
        }
        let secret = client.signing_secret.expose_secret();
        if !secret.is_empty() && !is_signing_secret(secret) {
            return Err(settings.error(&key("signing_secret"), SIGNING_SECRET));
        }
        let has_token = client.token_file.is_some() || !token.is_empty() || client.token_sha256.is_some();
        if !has_token && client.signing_secret_file.is_none() && secret.is_empty() {
            let expected = "expected a token_file, a token, a token_sha256, a signing_secret_file or a signing_secret; `instant-connect-worker token` makes one";
            return Err(settings.error(&key("token_file"), expected));
        }
    }
    let Some(listen) = section.listen else { return Ok(()) };
    if section.tls_cert_file.is_none() && !section.allow_insecure && !listen.ip().to_canonical().is_loopback()
    {
        let expected = "without ingress.tls_cert_file, expected a loopback address (others are allowed with ingress.allow_insecure)";
        return Err(settings.error("ingress.listen", expected));
    }
    if section.clients.is_empty() && !config.takes_receipts() {
        let expected = "expected at least one client, such as ICW_INGRESS__CLIENTS__FLOWS__TOKEN_FILE";
        return Err(settings.error("ingress.listen", expected));
    }
    if let Some(path) = &section.client_ca_file {
        check_client_ca(path).map_err(|error| settings.error("ingress.client_ca_file", error.problem))?;
    }
    let Some(files) = config.ingress_certificate() else { return Ok(()) };
    files.check().map_err(|error| {
        let is_key = error.path == files.key;
        let key = if is_key { "ingress.tls_key_file" } else { "ingress.tls_cert_file" };
        settings.error(key, error.problem)
    })
}

/// Problem of a setting that should be a path.
const PATH: &str = "expected the path of a file, with at least one /";

/// Validates the settings whose values are paths of files.
fn file_paths(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    for (key, path) in [
        ("amqp.url_file", &config.amqp.url_file),
        ("instant_connect.token_file", &config.instant_connect.token_file),
        ("hosts.token_file", &config.hosts.token_file),
        ("webex_connect.key_file", &config.webex_connect.key_file),
        ("receipts.secret_file", &config.receipts.secret_file),
        ("receipts.key_file", &config.receipts.key_file),
        ("webex_connect.jwt_secret_file", &config.webex_connect.jwt_secret_file),
        ("ledger.url_file", &config.ledger.url_file),
        ("amqp.client_cert_file", &config.amqp.client_cert_file),
        ("amqp.client_key_file", &config.amqp.client_key_file),
        ("tls.ca_file", &config.tls.ca_file),
        ("ingress.tls_cert_file", &config.ingress.tls_cert_file),
        ("ingress.tls_key_file", &config.ingress.tls_key_file),
        ("ingress.client_ca_file", &config.ingress.client_ca_file),
    ] {
        // A secret instead of a path would appear in every message about that path.
        if path.as_ref().is_some_and(|path| !is_path(&path.to_string_lossy())) {
            return Err(settings.error(key, PATH));
        }
    }
    Ok(())
}

/// Validates that no duration exceeds another one that must be at least as long.
fn order_of_durations(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    let drain = config.ingress.listen.map_or(Duration::ZERO, |_| config.ingress.drain.get());
    let connect_timeout =
        if config.sends_to_guests() { config.webex_connect.timeout.get() } else { Duration::ZERO };
    let ordered = [
        ("retry.initial", config.retry.initial, "retry.max", config.retry.max),
        (
            "breaker.probe_initial",
            config.breaker.probe_initial,
            "breaker.probe_max",
            config.breaker.probe_max,
        ),
        (
            "instant_connect.timeout",
            config.instant_connect.timeout.get(),
            "amqp.delivery_timeout",
            config.amqp.delivery_timeout.get(),
        ),
        (
            "webex_connect.timeout",
            connect_timeout,
            "amqp.delivery_timeout",
            config.amqp.delivery_timeout.get(),
        ),
        ("ingress.drain", drain, "shutdown.grace", config.shutdown.grace.get()),
        (
            "hosts.timeout",
            config.hosts.timeout.get(),
            "amqp.delivery_timeout",
            config.amqp.delivery_timeout.get(),
        ),
    ];
    for (small, low, large, high) in ordered {
        if low > high {
            return Err(settings.error(small, format!("expected at most {large}, which is {high:?}")));
        }
    }
    let guests = &config.webex_connect;
    if config.sends_to_guests() && guests.connect_timeout >= guests.timeout {
        // Otherwise the timeout ends an attempt to connect, which then counts as a message that may have been sent.
        let expected =
            format!("expected less than webex_connect.timeout, which is {:?}", guests.timeout.get());
        return Err(settings.error("webex_connect.connect_timeout", expected));
    }
    Ok(())
}

fn redis(config: &super::LedgerConfig, settings: &Settings) -> Result<(), ConfigError> {
    let Some(path) = &config.url_file else {
        let node = redis_node(&config.url, config.allow_insecure);
        return node.map(drop).map_err(|problem| settings.error("ledger.url", problem));
    };
    if settings.origin("ledger.url") != Some(&Origin::Default) {
        return Err(settings
            .error("ledger.url", "expected only one of ledger.url and ledger.url_file, but both are given"));
    }
    let url = read_url_file(path).map_err(|error| settings.error("ledger.url_file", error))?;
    let node = redis_node(&url, config.allow_insecure);
    node.map(drop).map_err(|problem| settings.error("ledger.url_file", problem))
}

fn broker(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    let rules = config.amqp.url_rules();
    let Some(path) = &config.amqp.url_file else {
        let nodes = broker_url::nodes(&config.amqp.url, rules);
        return nodes.map(drop).map_err(|problem| settings.error("amqp.url", problem));
    };
    if settings.origin("amqp.url") != Some(&Origin::Default) {
        return Err(
            settings.error("amqp.url", "expected only one of amqp.url and amqp.url_file, but both are given")
        );
    }
    let urls = read_url_file(path).map_err(|error| settings.error("amqp.url_file", error))?;
    broker_url::nodes(&urls, rules).map(drop).map_err(|problem| settings.error("amqp.url_file", problem))
}

/// Validates the files of TLS, alone and together.
fn tls(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    let both = "expected both amqp.client_cert_file and amqp.client_key_file, but only this one is given";
    match (&config.amqp.client_cert_file, &config.amqp.client_key_file) {
        (Some(_), None) => return Err(settings.error("amqp.client_cert_file", both)),
        (None, Some(_)) => return Err(settings.error("amqp.client_key_file", both)),
        (None, None) if config.amqp.auth == Auth::External => {
            let expected = "external authentication needs amqp.client_cert_file and amqp.client_key_file";
            return Err(settings.error("amqp.auth", expected));
        }
        _ => {}
    }
    let files = config.broker_tls();
    files.check().map_err(|error| {
        let key = match &files.client {
            Some(client) if client.certificate == error.path => "amqp.client_cert_file",
            Some(client) if client.key == error.path => "amqp.client_key_file",
            _ => "tls.ca_file",
        };
        settings.error(key, error.problem)
    })
}

fn token(
    settings: &Settings,
    key: &str,
    token: &SecretString,
    file: Option<&Path>,
) -> Result<(), ConfigError> {
    let text = token.expose_secret();
    if !text.is_empty() && file.is_some() {
        let problem = format!("expected only one of {key} and {key}_file, but both are given");
        return Err(settings.error(key, problem));
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(settings.error(
            key,
            "expected printable characters without spaces, because the token is sent in an HTTP header",
        ));
    }
    Ok(())
}

fn http_url(settings: &Settings, key: &str, url: &Url, allow_insecure: bool) -> Result<(), ConfigError> {
    let section = key.split('.').next().unwrap_or_default();
    match url.scheme() {
        _ if url.query().is_some() || url.fragment().is_some() => Err(settings.error(key, "expected a URL without ? and #")),
        _ if !url.username().is_empty() || url.password().is_some() => Err(settings.error(key, "expected a URL without user and password")),
        "https" => Ok(()),
        "http" if allow_insecure || is_local(url) => Ok(()),
        "http" => Err(settings.error(key, format!("expected https:// (http:// is allowed only for loopback and cluster-local hosts, or with {section}.allow_insecure)"))),
        _ => Err(settings.error(key, "expected a URL such as https://host/")),
    }
}

#[cfg(test)]
mod tests;
