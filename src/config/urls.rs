//! Whole URLs of the APIs and the collector, derived from settings that may name only the host.

use url::Url;

use super::{Loaded, otel, settings::Origin};

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

    /// The whole URL of an API of Webex Connect.
    #[must_use]
    pub(crate) fn connect_url(&self, path: &str) -> Url {
        let mut url = endpoint(&self.config.webex_connect.url, path.trim_end_matches('/'));
        if path.ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        url
    }

    /// The whole URL of `people/me`, which returns the owner of a token.
    #[must_use]
    pub fn people_me_url(&self) -> Url {
        let mut url = self.messages_url();
        let path = url.path().trim_end_matches("/messages").to_owned() + "/people/me";
        url.set_path(&path);
        url
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
}
