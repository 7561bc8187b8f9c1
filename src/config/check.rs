//! Rules between settings, and what is made of them: endpoints and tokens.

use std::{net::IpAddr, path::Path};

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{
    Config, Delivery,
    load::{ConfigError, Loaded, Settings},
};
use crate::upstream::{TokenSource, is_loopback};

/// Rules that no single key can hold.
pub(super) fn check(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    http_url(
        settings,
        "instant_connect.url",
        &config.instant_connect.url,
        config.instant_connect.allow_insecure,
    )?;
    http_url(settings, "hosts.webex_url", &config.hosts.webex_url, config.hosts.allow_insecure)?;
    http_url(settings, "instant_connect.long_url_base", &config.instant_connect.long_url_base, false)?;
    if config.amqp.url_file.is_none() {
        amqp_urls(&config.amqp.url, config.amqp.allow_insecure)
            .map_err(|problem| settings.error("amqp.url", problem))?;
    }
    token(
        settings,
        "instant_connect",
        &config.instant_connect.token,
        config.instant_connect.token_file.as_deref(),
    )?;
    token(settings, "hosts", &config.hosts.token, config.hosts.token_file.as_deref())?;
    let ordered = [
        ("retry.initial", config.retry.initial, "retry.max", config.retry.max),
        ("retry.probe_initial", config.retry.probe_initial, "retry.probe_max", config.retry.probe_max),
        ("instant_connect.timeout", config.instant_connect.timeout, "amqp.hold_max", config.amqp.hold_max),
        ("hosts.timeout", config.hosts.timeout, "amqp.hold_max", config.amqp.hold_max),
    ];
    for (small, low, large, high) in ordered {
        if low > high {
            return Err(settings.error(small, format!("expected no more than {large}, which is {high:?}")));
        }
    }
    Ok(())
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
            format!("expected one of {section}.token and {section}.token_file, and both are given"),
        ));
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(
            settings.error(&key, "expected printable characters without spaces, as an HTTP header can carry")
        );
    }
    Ok(())
}

/// Whether secrets may go to this host without TLS: this machine, or a name that only a cluster's own DNS knows.
fn is_local(url: &Url) -> bool {
    let Some(host) = url.host_str().map(|host| host.trim_start_matches('[').trim_end_matches(']')) else {
        return false;
    };
    if let Ok(address) = host.parse::<IpAddr>() {
        return address.is_loopback();
    }
    let name = host.trim_end_matches('.');
    let in_cluster = matches!(name.rsplit('.').next(), Some("svc")) || name.ends_with(".cluster.local");
    !name.contains('.') || in_cluster || is_loopback(url)
}

fn http_url(settings: &Settings, key: &str, url: &Url, allow_insecure: bool) -> Result<(), ConfigError> {
    let section = key.split('.').next().unwrap_or_default();
    match url.scheme() {
        _ if !url.username().is_empty() || url.password().is_some() => Err(settings.error(key, "expected a URL without user and password")),
        "https" => Ok(()),
        "http" if allow_insecure || is_local(url) => Ok(()),
        "http" => Err(settings.error(key, format!("expected https:// (http:// is for loopback and cluster-local hosts, or with {section}.allow_insecure)"))),
        _ => Err(settings.error(key, "expected a URL such as https://host/")),
    }
}

/// The broker's URLs, in order.
///
/// # Errors
/// What was expected; shows nothing of the URLs.
pub fn amqp_urls(urls: &SecretString, allow_insecure: bool) -> Result<Vec<SecretString>, String> {
    let texts: Vec<&str> =
        urls.expose_secret().split([',', ' ', '\n']).map(str::trim).filter(|text| !text.is_empty()).collect();
    if texts.is_empty() {
        return Err("expected an amqp:// or amqps:// URL".to_owned());
    }
    for text in &texts {
        let url =
            Url::parse(text).map_err(|error| format!("expected an amqp:// or amqps:// URL ({error})"))?;
        match url.scheme() {
            _ if url.host_str().is_none_or(str::is_empty) => return Err("expected a URL with a host, such as amqps://user:password@host/vhost".to_owned()),
            "amqps" => {}
            "amqp" if allow_insecure || is_local(&url) => {}
            "amqp" => return Err("expected amqps:// (amqp:// is for loopback and cluster-local hosts, or with amqp.allow_insecure)".to_owned()),
            _ => return Err("expected an amqp:// or amqps:// URL".to_owned()),
        }
    }
    Ok(texts.into_iter().map(SecretString::from).collect())
}

/// `base` with `path` where it has none, so that a setting may name the host or the whole endpoint.
fn endpoint(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    let given = base.path().trim_end_matches('/');
    if !given.ends_with(path) {
        // `https://webexapis.com/v1` is how Webex's own SDKs write it.
        let joined = match path.strip_prefix("/v1").filter(|_| given.ends_with("/v1")) {
            Some(rest) => format!("{given}{rest}"),
            None => format!("{given}{path}"),
        };
        url.set_path(&joined);
    }
    url
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

    /// The whole URL of `people/me`, which tells whose token one is.
    #[must_use]
    pub fn people_me_url(&self) -> Url {
        let mut url = self.messages_url();
        let path = url.path().trim_end_matches("/messages").to_owned() + "/people/me";
        url.set_path(&path);
        url
    }

    /// The token for Instant Connect, tried once where it is a file.
    ///
    /// # Errors
    /// [`ConfigError`] where none is given or the file has none.
    pub fn instant_connect_token(&self) -> Result<TokenSource, ConfigError> {
        let section = &self.config.instant_connect;
        self.token_source("instant_connect", &section.token, section.token_file.as_deref())?.ok_or_else(|| {
            ConfigError::new("instant_connect.token: expected a bot's token; set ICW_INSTANT_CONNECT__TOKEN, or ICW_INSTANT_CONNECT__TOKEN_FILE to a file that holds it")
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

    /// Whether stage `host` runs here.
    #[must_use]
    pub fn delivers_to_hosts(&self) -> bool {
        self.config.hosts.delivery == Delivery::Webex
    }

    fn token_source(
        &self,
        section: &str,
        token: &SecretString,
        file: Option<&Path>,
    ) -> Result<Option<TokenSource>, ConfigError> {
        if !token.expose_secret().is_empty() {
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
    fn a_secret_never_leaves_without_tls_unless_that_is_said() {
        for (host, fine) in [
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
                fine,
                "http://{host}"
            );
            assert_eq!(
                with(&[("ICW_HOSTS__WEBEX_URL", &format!("http://{host}"))]).is_ok(),
                fine,
                "http://{host}"
            );
            assert_eq!(
                with(&[("ICW_AMQP__URL", &format!("amqp://u:p@{host}"))]).is_ok(),
                fine,
                "amqp://{host}"
            );
            assert!(with(&[("ICW_AMQP__URL", &format!("amqps://u:p@{host}/v"))]).is_ok());
        }
        assert!(
            with(&[("ICW_AMQP__URL", "amqp://example.com"), ("ICW_AMQP__ALLOW_INSECURE", "true")]).is_ok()
        );
        assert!(
            with(&[("ICW_AMQP__URL", "amqp://a,amqp://example.com")]).is_err(),
            "each of several is checked"
        );
    }

    #[test]
    fn a_url_may_be_the_host_or_the_endpoint() {
        for (given, url) in [
            ("http://localhost:1", "http://localhost:1/api/v2/joseencrypt"),
            ("http://localhost:1/", "http://localhost:1/api/v2/joseencrypt"),
            ("http://localhost:1/api/v2/joseencrypt", "http://localhost:1/api/v2/joseencrypt"),
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
    fn settings_that_contradict_each_other_are_refused() {
        let error = with(&[("ICW_RETRY__INITIAL", "1m")]).unwrap_err();
        assert_eq!(
            error,
            "environment ICW_RETRY__INITIAL: retry.initial = \"1m\": expected no more than retry.max, which is 30s"
        );
        let both = with(&[("ICW_HOSTS__TOKEN", "x"), ("ICW_HOSTS__TOKEN_FILE", "/x")]).unwrap_err();
        assert!(both.contains("both are given"), "{both}");
    }

    #[test]
    fn a_missing_token_is_an_error_that_says_how_to_give_one() {
        let error = with(&[]).unwrap().hosts_token().unwrap_err().to_string();
        assert!(error.contains("ICW_INSTANT_CONNECT__TOKEN_FILE"), "{error}");
    }
}
