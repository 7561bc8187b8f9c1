//! Rules between settings, and the endpoints and tokens derived from them.

use std::{path::Path, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{
    Auth, Config, HostsDelivery, LedgerChoice,
    load::{ConfigError, Loaded, Origin, Settings, is_path},
    otel,
};
use crate::{
    endpoint::{
        broker_url,
        redis_url::redis_node,
        url::{is_local, read_url_file},
    },
    ledger, masking,
    tls::{ClientFiles, Files},
    upstream::TokenSource,
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
        "instant_connect",
        &config.instant_connect.token,
        config.instant_connect.token_file.as_deref(),
    )?;
    token(settings, "hosts", &config.hosts.token, config.hosts.token_file.as_deref())?;
    order_of_durations(config, settings)
}

/// Validates the settings whose values are paths of files.
fn file_paths(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    for (key, path) in [
        ("amqp.url_file", &config.amqp.url_file),
        ("instant_connect.token_file", &config.instant_connect.token_file),
        ("hosts.token_file", &config.hosts.token_file),
        ("ledger.url_file", &config.ledger.url_file),
        ("amqp.client_cert_file", &config.amqp.client_cert_file),
        ("amqp.client_key_file", &config.amqp.client_key_file),
        ("tls.ca_file", &config.tls.ca_file),
    ] {
        // A secret in place of a path would appear in every message about that path.
        if path.as_ref().is_some_and(|path| !is_path(&path.to_string_lossy())) {
            return Err(settings.error(key, "expected the path of a file, with at least one /"));
        }
    }
    Ok(())
}

/// Validates that no duration exceeds another one that must be at least as long.
fn order_of_durations(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
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
    section: &str,
    token: &SecretString,
    file: Option<&Path>,
) -> Result<(), ConfigError> {
    let key = format!("{section}.token");
    let text = token.expose_secret();
    if !text.is_empty() && file.is_some() {
        return Err(settings.error(
            &key,
            format!("expected only one of {section}.token and {section}.token_file, but both are given"),
        ));
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(settings.error(
            &key,
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

/// Appends `path` to `base` unless it ends with it already, so a setting may name the host or the whole endpoint.
fn endpoint(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    let given = base.path().trim_end_matches('/');
    if given.ends_with(path) {
        url.set_path(given);
    } else {
        // Webex's own SDKs write `https://webexapis.com/v1`.
        let joined = match path.strip_prefix("/v1").filter(|_| given.ends_with("/v1")) {
            Some(rest) => format!("{given}{rest}"),
            None => format!("{given}{path}"),
        };
        url.set_path(&joined);
    }
    url
}

impl super::AmqpConfig {
    /// Rules for the broker's URLs.
    #[must_use]
    pub fn url_rules(&self) -> broker_url::UrlRules {
        broker_url::UrlRules { allow_insecure: self.allow_insecure, external: self.auth == Auth::External }
    }
}

impl Config {
    /// TLS files for the broker.
    #[must_use]
    pub fn broker_tls(&self) -> Files {
        let files = self.amqp.client_cert_file.clone().zip(self.amqp.client_key_file.clone());
        let client = files.map(|(certificate, key)| ClientFiles { certificate, key });
        Files { client, ..self.tls() }
    }

    /// TLS files for all other connections.
    #[must_use]
    pub fn tls(&self) -> Files {
        Files { ca: self.tls.ca_file.clone(), client: None }
    }
}

impl Loaded {
    /// The whole URL of `joseencrypt`.
    #[must_use]
    pub fn joseencrypt_url(&self) -> Url {
        endpoint(&self.config.instant_connect.url, "/api/v2/joseencrypt")
    }

    /// The whole URL of `messages`.
    #[must_use]
    pub fn messages_url(&self) -> Url {
        endpoint(&self.config.hosts.webex_url, "/v1/messages")
    }

    /// The whole URL of `people/me`, which returns the owner of a token.
    #[must_use]
    pub fn people_me_url(&self) -> Url {
        let mut url = self.messages_url();
        let path = url.path().trim_end_matches("/messages").to_owned() + "/people/me";
        url.set_path(&path);
        url
    }

    /// The token for Instant Connect; a token file is read once as a test.
    ///
    /// # Errors
    /// [`ConfigError`] if no token is given or the file contains none.
    pub fn instant_connect_token(&self) -> Result<TokenSource, ConfigError> {
        let section = &self.config.instant_connect;
        self.token_source("instant_connect", &section.token, section.token_file.as_deref())?.ok_or_else(|| {
            ConfigError::new("instant_connect.token: expected a bot token; set ICW_INSTANT_CONNECT__TOKEN, or ICW_INSTANT_CONNECT__TOKEN_FILE to a file that contains the token")
        })
    }

    /// The token for messages: `hosts.token`, else Instant Connect's.
    ///
    /// # Errors
    /// As [`Loaded::instant_connect_token`].
    pub fn hosts_token(&self) -> Result<TokenSource, ConfigError> {
        let section = &self.config.hosts;
        match self.token_source("hosts", &section.token, section.token_file.as_deref())? {
            Some(source) => Ok(source),
            None => self.instant_connect_token(),
        }
    }

    /// The whole URL for spans; `None` if tracing is off.
    #[must_use]
    pub fn traces_url(&self) -> Option<Url> {
        let given = self.config.telemetry.otlp_endpoint.as_ref()?;
        // By the specification this variable always contains the whole URL.
        let whole = Origin::Environment(otel::TRACES_ENDPOINT.to_owned());
        let whole = self.settings.origin("telemetry.otlp_endpoint") == Some(&whole);
        Some(if whole { given.clone() } else { endpoint(given, "/v1/traces") })
    }

    /// The configured ledger.
    #[must_use]
    pub fn ledger(&self) -> ledger::LedgerKind {
        let (section, prefix) = (&self.config.ledger, self.config.topology.prefix.as_str());
        match section.kind {
            LedgerChoice::Memory => ledger::LedgerKind::Memory,
            LedgerChoice::File => {
                let path = section.path.clone().unwrap_or_else(|| format!("{prefix}.ledger").into());
                ledger::LedgerKind::File { path }
            }
            LedgerChoice::Redis => {
                let allow_insecure = section.allow_insecure;
                let url = match section.url_file.clone() {
                    Some(path) => ledger::RedisUrl::File { path, allow_insecure },
                    None => section.url.clone().into(),
                };
                ledger::LedgerKind::Redis {
                    url,
                    prefix: prefix.to_owned(),
                    ca_file: self.config.tls.ca_file.clone(),
                }
            }
        }
    }

    /// True if stage `host` runs in this worker.
    #[must_use]
    pub fn delivers_to_hosts(&self) -> bool {
        self.config.hosts.delivery == HostsDelivery::Webex
    }

    fn token_source(
        &self,
        section: &str,
        token: &SecretString,
        file: Option<&Path>,
    ) -> Result<Option<TokenSource>, ConfigError> {
        if !token.expose_secret().is_empty() {
            masking::remember(token.expose_secret());
            return Ok(Some(TokenSource::Value(token.clone())));
        }
        let Some(path) = file else { return Ok(None) };
        let source = TokenSource::file(path.to_owned());
        source.current().map_err(|error| self.settings.error(&format!("{section}.token_file"), error))?;
        Ok(Some(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn with(environment: &[(&str, &str)]) -> Result<Loaded, String> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load(&Sources { environment, ..Sources::default() }).map_err(|error| error.to_string())
    }

    #[test]
    fn ca_file_is_trusted_for_redis_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let authority = rcgen::generate_simple_self_signed(["redis".to_owned()]).unwrap();
        std::fs::write(&path, authority.cert.pem()).unwrap();
        let path = path.to_str().unwrap();
        let redis = [
            ("ICW_LEDGER__KIND", "redis"),
            ("ICW_LEDGER__URL", "rediss://redis.example.com"),
            ("ICW_TLS__CA_FILE", path),
        ];
        let ledger::LedgerKind::Redis { ca_file, .. } = with(&redis).unwrap().ledger() else { panic!() };
        assert_eq!(ca_file.as_deref(), Some(Path::new(path)));
    }

    #[test]
    fn remote_url_without_tls_needs_allow_insecure() {
        for (host, valid) in [
            ("localhost", true),
            ("127.0.0.1:8080", true),
            ("[::1]:1", true),
            ("rabbit", true),
            ("mq.prod.svc", true),
            ("mq.prod.svc.cluster.local", true),
            ("example.com", false),
            ("10.0.0.5", false),
            ("svc.example.com", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
            ("192.168.1.1", false),
        ] {
            assert_eq!(
                with(&[("ICW_INSTANT_CONNECT__URL", &format!("http://{host}"))]).is_ok(),
                valid,
                "http://{host}"
            );
            assert_eq!(
                with(&[("ICW_HOSTS__WEBEX_URL", &format!("http://{host}"))]).is_ok(),
                valid,
                "http://{host}"
            );
            assert_eq!(
                with(&[("ICW_AMQP__URL", &format!("amqp://u:p@{host}"))]).is_ok(),
                valid,
                "amqp://{host}"
            );
            assert!(with(&[("ICW_AMQP__URL", &format!("amqps://u:p@{host}/v"))]).is_ok());
        }
        assert!(
            with(&[("ICW_AMQP__URL", "amqp://example.com"), ("ICW_AMQP__ALLOW_INSECURE", "true")]).is_ok()
        );
        for wrong in [
            "amqp://a,amqp://example.com",
            "amqp://evil%2eexample%2ecom",
            "amqp://134744072",
            "amqp://a?heartbeat=x",
        ] {
            assert!(with(&[("ICW_AMQP__URL", wrong)]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn url_setting_may_name_host_or_endpoint() {
        for (given, url) in [
            ("http://localhost:1", "http://localhost:1/api/v2/joseencrypt"),
            ("http://localhost:1/", "http://localhost:1/api/v2/joseencrypt"),
            ("http://localhost:1/api/v2/joseencrypt", "http://localhost:1/api/v2/joseencrypt"),
            ("http://localhost:1/api/v2/joseencrypt/", "http://localhost:1/api/v2/joseencrypt"),
            ("http://localhost:1/proxy/", "http://localhost:1/proxy/api/v2/joseencrypt"),
        ] {
            assert_eq!(with(&[("ICW_INSTANT_CONNECT__URL", given)]).unwrap().joseencrypt_url().as_str(), url);
        }
        for (given, url) in [
            ("http://localhost:1", "http://localhost:1/v1/messages"),
            ("http://localhost:1/v1", "http://localhost:1/v1/messages"),
            ("http://localhost:1/v1/", "http://localhost:1/v1/messages"),
            ("http://localhost:1/v1/messages", "http://localhost:1/v1/messages"),
        ] {
            assert_eq!(with(&[("ICW_HOSTS__WEBEX_URL", given)]).unwrap().messages_url().as_str(), url);
        }
    }

    #[test]
    fn contradicting_settings_are_refused() {
        let error = with(&[("ICW_RETRY__INITIAL", "1h")]).unwrap_err();
        assert_eq!(
            error,
            "environment ICW_RETRY__INITIAL: retry.initial = \"1h\": expected at most retry.max, which is 600s"
        );
        let both = with(&[("ICW_HOSTS__TOKEN", "x"), ("ICW_HOSTS__TOKEN_FILE", "/x")]).unwrap_err();
        assert!(both.contains("both are given"), "{both}");
    }

    #[test]
    fn missing_token_error_names_the_variable() {
        let error = with(&[]).unwrap().hosts_token().unwrap_err().to_string();
        assert!(error.contains("ICW_INSTANT_CONNECT__TOKEN_FILE"), "{error}");
    }
}
