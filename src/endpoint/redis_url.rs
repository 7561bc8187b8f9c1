//! Parser of the Redis URL, as strict as the parser of the broker's URLs: see `broker_url`.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{
    broker_url::{decoded, host, shape},
    url::is_local,
};
use crate::masking;

/// One Redis.
#[derive(Clone)]
pub(crate) struct RedisNode {
    /// True for `rediss://`.
    pub tls: bool,
    /// A name, or an address without brackets.
    pub host: String,
    /// Default: 6379.
    pub port: u16,
    pub user: Option<String>,
    pub password: Option<SecretString>,
    /// Number of the database.
    pub database: i64,
}

impl fmt::Debug for RedisNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisNode").field("tls", &self.tls).finish_non_exhaustive()
    }
}

const EXPECTED: &str = "expected redis://user:password@host:port/database, or rediss:// for TLS";
const ENCODE: &str =
    "; special characters in a password are percent-encoded, such as %2F for / and %40 for @";

/// Parses `text`. Without TLS, only loopback and cluster-local hosts are accepted, unless `allow_insecure` is set.
///
/// # Errors
/// The expected form, without any part of `text`.
pub(crate) fn redis_node(text: &SecretString, allow_insecure: bool) -> Result<RedisNode, String> {
    let text = text.expose_secret();
    shape(text)?;
    if text.contains(',') {
        return Err(
            "expected one URL, because the ledger uses one Redis; a comma in a password is written %2C"
                .to_owned(),
        );
    }
    let url = Url::parse(text).map_err(|_| format!("{EXPECTED}{ENCODE}"))?;
    let tls = match url.scheme() {
        _ if url.cannot_be_a_base() || !url.has_authority() => return Err(EXPECTED.to_owned()),
        "rediss" => true,
        "redis" if allow_insecure || is_local(&url) => false,
        "redis" => {
            return Err(
                "expected rediss:// (redis:// is allowed for loopback and cluster-local hosts, or with ledger.allow_insecure)"
                    .to_owned(),
            );
        }
        _ => return Err(EXPECTED.to_owned()),
    };
    if url.fragment().is_some() {
        return Err(format!(
            "expected no # in the URL; certificates are always verified, set tls.ca_file for a private CA{ENCODE}"
        ));
    }
    if url.query().is_some() {
        return Err(format!("expected no ? in the URL; write the database number after the host{ENCODE}"));
    }
    let database = url.path().trim_matches('/');
    let database = if database.is_empty() { Ok(0) } else { database.parse::<u16>() };
    let database =
        database.map_err(|_| format!("expected a database number or nothing after the host{ENCODE}"))?;
    let given = |text: &str, what| if text.is_empty() { Ok(None) } else { decoded(text, what).map(Some) };
    let user = given(url.username(), "user")?;
    let password = given(url.password().unwrap_or_default(), "password")?;
    if let Some(password) = &password {
        masking::remember(password);
        masking::remember(url.password().unwrap_or_default());
    } else if user.is_some() {
        return Err(format!(
            "expected a password after the user, as in redis://user:password@host or redis://:password@host{ENCODE}"
        ));
    }
    let port = match url.port() {
        Some(0) => return Err("expected a port from 1 to 65535".to_owned()),
        port => port.unwrap_or(6379),
    };
    let (host, database) = (host(&url)?, i64::from(database));
    Ok(RedisNode { tls, host, port, user, password: password.map(SecretString::from), database })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_parsed_into_its_parts() {
        let node = redis_node(&"rediss://us%20er:p%40ss@redis.example.com:6380/3".into(), false).unwrap();
        assert_eq!(
            (node.tls, node.host.as_str(), node.port, node.database),
            (true, "redis.example.com", 6380, 3)
        );
        assert_eq!(node.user.as_deref(), Some("us er"));
        assert_eq!(node.password.as_ref().map(ExposeSecret::expose_secret), Some("p@ss"));
        assert!(!format!("{node:?}").contains("p@ss"));
        let node = redis_node(&"redis://localhost/".into(), false).unwrap();
        assert_eq!((node.tls, node.port, node.database, node.user), (false, 6379, 0, None));
    }

    #[test]
    fn invalid_url_is_refused_with_a_hint() {
        for (url, hint) in [
            ("redis://:s3cret@localhost;redis://:s3cret@b", "no ; in the URL"),
            ("redis://:s3cret@localhost,redis://:s3cret@b", "one URL"),
            ("redis://:s3cret@localhost\n", "line break"),
            ("rediss://:s3cret@redis.example.com/#insecure", "always verified"),
            ("redis://:s3cret@localhost/0?protocol=resp3", "no ? in the URL"),
            ("redis://:s3cret@localhost/s3cret", "database number"),
            ("redis://:12/s3cret@localhost", "%2F for /"),
            ("redis://s3cret@localhost", "redis://:password@host"),
            ("redis://:s3cret@redis.example.com", "rediss://"),
            ("redis:s3cret", "expected redis://"),
            ("localhost:6379", "expected redis://"),
            ("valkey://:s3cret@localhost", "expected redis://"),
        ] {
            let problem = redis_node(&url.into(), false).map(drop).unwrap_err();
            assert!(problem.contains(hint), "{url:?}: {problem}");
            assert!(!problem.contains("cret"), "{url:?}: {problem}");
        }
    }
}
