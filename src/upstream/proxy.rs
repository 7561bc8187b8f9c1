//! The proxy for HTTPS calls, from the usual environment variables. Calls without TLS use no proxy, because a proxy
//! could read the token.

use axum::http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use secrecy::SecretString;
use url::Url;

use crate::masking;

/// The variables for each kind of URL. The first spelling that is set applies.
const HTTPS: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const ALL: [&str; 2] = ["ALL_PROXY", "all_proxy"];
const HTTP: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
const NONE: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// Proxy settings of the environment.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    https: Option<Proxy>,
    /// The entries of `NO_PROXY`.
    exceptions: Vec<String>,
}

/// A proxy; its URL may hold a password.
#[derive(Clone, Debug)]
pub struct Proxy {
    pub(super) url: SecretString,
    /// Its host and port.
    pub(super) shown: String,
}

/// An unusable environment variable. The text contains no part of its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("environment {variable}: {problem}")]
pub struct ProxyError {
    variable: &'static str,
    problem: &'static str,
}

type ProxyVariables = [(String, String)];

/// The first of `names` that is set, if it is not empty.
fn first<'a>(environment: &'a ProxyVariables, names: [&'static str; 2]) -> Option<(&'static str, &'a str)> {
    let set = names
        .into_iter()
        .find_map(|name| Some((name, &environment.iter().find(|(known, _)| known == name)?.1)));
    set.map(|(name, value)| (name, value.as_str())).filter(|(_, value)| !value.is_empty())
}

impl Proxies {
    /// Reads the proxy settings from `environment`.
    ///
    /// # Errors
    /// [`ProxyError`] if a proxy can't be used. A direct call instead would not be what the operator wants.
    pub fn of(environment: &ProxyVariables) -> Result<Self, ProxyError> {
        let read = |names| {
            let given = first(environment, names);
            given
                .map(|(variable, text)| Proxy::read(text).map_err(|problem| ProxyError { variable, problem }))
        };
        // Not used, but checked like the others.
        read(HTTP).transpose()?;
        let https = read(HTTPS).or_else(|| read(ALL)).transpose()?;
        let list = first(environment, NONE).map_or("", |(_, list)| list);
        let exceptions =
            list.split(|c: char| c == ',' || c.is_whitespace()).filter(|entry| !entry.is_empty());
        Ok(Self { https, exceptions: exceptions.map(str::to_owned).collect() })
    }

    /// The proxy for calls to `url`.
    #[must_use]
    pub fn of_url(&self, url: &Url) -> Option<&Proxy> {
        let proxy = self.https.as_ref().filter(|_| url.scheme() == "https")?;
        let port = url.port_or_known_default();
        let exceptions: Vec<_> = self.exceptions.iter().filter_map(|entry| host_of(entry, port)).collect();
        let uri: Uri = url.as_str().parse().ok()?;
        let matcher = Matcher::builder().https("http://proxy.invalid").no(exceptions.join(",")).build();
        matcher.intercept(&uri).map(|_| proxy)
    }
}

/// The host of a `NO_PROXY` entry, unless the entry is for another port.
fn host_of(entry: &str, port: Option<u16>) -> Option<&str> {
    let (host, entry_port) = match entry.rsplit_once(':') {
        // An IPv6 address has more than one colon.
        Some((host, digits)) if !host.contains(':') || host.ends_with(']') => match digits.parse() {
            Ok(entry_port) => (host, Some(entry_port)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    // curl supports only the wildcard `*`; many other programs accept `*.example.com`.
    let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
    (entry_port.is_none() || entry_port == port).then_some(host)
}

impl Proxy {
    fn read(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "expected http://HOST:PORT or https://HOST:PORT, with USER:PASSWORD@ before the host if the \
                                proxy requires them (special characters percent-encoded)";
        if text.contains(|c: char| c.is_whitespace() || c.is_control() || "\"'`<>".contains(c)) {
            return Err("expected a URL without quotes, spaces or line breaks");
        }
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&text).map_err(|_| EXPECTED)?;
        if let Some(password) = url.password() {
            masking::remember(password);
        }
        if url.scheme().starts_with("socks") {
            return Err("SOCKS proxies are not supported; expected http://HOST:PORT or https://HOST:PORT");
        }
        let plain = url.query().is_none() && url.fragment().is_none() && matches!(url.path(), "" | "/");
        match (url.scheme(), url.host_str(), url.port_or_known_default()) {
            ("http" | "https", Some(host), Some(port)) if plain => {
                Ok(Self { shown: format!("{host}:{port}"), url: text.into() })
            }
            _ => Err(EXPECTED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies, String> {
        let environment: Vec<_> = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Proxies::of(&environment).map_err(|error| error.to_string())
    }

    fn proxy_of(url: &str, variables: &[(&str, &str)]) -> Option<String> {
        proxies(variables).unwrap().of_url(&url.parse().unwrap()).map(|proxy| proxy.shown.clone())
    }

    #[test]
    fn first_proxy_variable_applies_to_https_only() {
        let (https, all) = (("HTTPS_PROXY", "http://u:s3cret@one:3128/"), ("all_proxy", "two:8080"));
        let webex = "https://webexapis.com/v1";
        assert_eq!(proxy_of(webex, &[]), None);
        assert_eq!(proxy_of(webex, &[https, all]).unwrap(), "one:3128");
        assert_eq!(proxy_of(webex, &[all]).unwrap(), "two:8080");
        assert_eq!(proxy_of(webex, &[("HTTPS_PROXY", ""), https]), None, "the first set variable applies");
        assert_eq!(proxy_of("http://127.0.0.1:1/", &[https, all]), None);
        assert!(!format!("{:?}", proxies(&[https])).contains("s3cret"));
    }

    #[test]
    fn no_proxy_entry_with_a_port_applies_to_that_port_only() {
        let proxy = ("HTTPS_PROXY", "http://one:3128");
        for (url, list, direct) in [
            ("https://a.example.com:8443/", "a.example.com:8443", true),
            ("https://a.example.com/", "a.example.com:443", true),
            ("https://a.example.com/", "a.example.com:8443", false),
            ("https://a.example.com/", "x, example.com", true),
            ("https://a.example.com/", "x .example.com\n", true),
            ("https://a.example.com/", "*.example.com", true),
            ("https://badexample.com/", "*.example.com,example.com", false),
            ("https://10.1.2.3/", "10.0.0.0/8", true),
            ("https://[fd00::1]:8443/", "[fd00::1]:8443", true),
            ("https://[fd00::1]:8443/", "fd00::1", true),
            ("https://a.example.com/", "*", true),
        ] {
            let found = proxy_of(url, &[proxy, ("NO_PROXY", list)]);
            assert_eq!(found.is_none(), direct, "{url} {list:?}");
        }
    }

    #[test]
    fn unusable_proxy_is_an_error_without_its_password() {
        for (value, expected) in [
            ("\"http://u:s3cret@one:3128\"", "without quotes"),
            ("http://u:s3cret@one:3128\n", "line breaks"),
            (" http://u:s3cret@one:3128", "spaces"),
            ("socks5://u:s3cret@one:1080", "SOCKS proxies are not supported"),
            ("socks5h://one", "SOCKS"),
            ("ftp://u:s3cret@one", "expected http://HOST:PORT"),
            ("http://u:s3c#ret@one:3128", "percent-encoded"),
            ("http://u:1?s3cret@one:3128", "percent-encoded"),
            ("http://u:s3cret@one:port", "expected http://HOST:PORT"),
            ("http://", "expected http://HOST:PORT"),
            ("http://one/s3cret", "expected http://HOST:PORT"),
        ] {
            for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"] {
                let error = proxies(&[(name, value)]).unwrap_err();
                assert!(error.starts_with(&format!("environment {name}: ")), "{error}");
                assert!(error.contains(expected) && !error.contains("s3c"), "{value}: {error}");
            }
        }
        // Not used, because HTTPS_PROXY is set; common on desktops.
        assert!(proxies(&[("HTTPS_PROXY", "one:3128"), ("ALL_PROXY", "socks5://two")]).is_ok());
    }
}
