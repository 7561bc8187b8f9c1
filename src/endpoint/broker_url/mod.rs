//! Parser of the broker's URLs. There is only one parser, because two parsers that read a text differently could send a
//! password to the wrong host. An error gives the number of the node and a remedy. An error never contains a part of the
//! text, because any part may be a password that was not encoded correctly.

use std::{fmt, net::Ipv4Addr};

use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use super::url::is_local;
use crate::masking;

/// One node of the broker.
#[derive(Clone)]
pub(crate) struct Node {
    /// True for `amqps://`.
    pub tls: bool,
    /// A name, or an address without brackets.
    pub host: String,
    /// Default: 5671 with TLS, 5672 without.
    pub port: u16,
    pub user: String,
    pub password: SecretString,
    pub vhost: String,
    /// Heartbeat in seconds, if the URL sets it.
    pub heartbeat: Option<u16>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// Settings that apply to all nodes.
#[derive(Clone, Copy, Debug)]
pub struct UrlRules {
    /// `amqp.allow_insecure`.
    pub allow_insecure: bool,
    /// `amqp.auth` is `external`: the client certificate identifies the user.
    pub external: bool,
}

const EXPECTED: &str = "expected amqp://user:password@host:port/vhost or amqps://…";
const ENCODE: &str = "; a password is written with %25 for %, %2F for /, %3F for ?, %23 for #, %40 for @, %3A for :, %2C for a comma, %3B for ;";
/// Query keys of other clients, and what to use instead.
const ELSEWHERE: [(&str, &str); 24] = [
    ("cacertfile", "set tls.ca_file"),
    ("ca_certs", "set tls.ca_file"),
    ("cafile", "set tls.ca_file"),
    ("ssl_ca_certs", "set tls.ca_file"),
    ("certfile", "set amqp.client_cert_file"),
    ("ssl_certfile", "set amqp.client_cert_file"),
    ("keyfile", "set amqp.client_key_file"),
    ("ssl_keyfile", "set amqp.client_key_file"),
    ("password", "amqp.client_key_file takes a key without a password"),
    ("verify", "the server's certificate is always verified; set tls.ca_file for a private CA"),
    ("ssl_verify", "the server's certificate is always verified; set tls.ca_file for a private CA"),
    ("ssl_cert_reqs", "the server's certificate is always verified; set tls.ca_file for a private CA"),
    ("fail_if_no_peer_cert", "the server's certificate is always verified"),
    ("depth", "the server's certificate is always verified"),
    ("server_name_indication", "the certificate is verified against the host in the URL"),
    ("ssl", "write amqps:// for TLS"),
    ("tls", "write amqps:// for TLS"),
    ("ssl_options", "write amqps:// for TLS; set tls.ca_file for a private CA"),
    ("auth_mechanism", "set amqp.auth"),
    ("connection_timeout", "set amqp.connect_timeout"),
    ("socket_timeout", "set amqp.connect_timeout"),
    ("vhost", "write the virtual host after the host, as in amqp://host/vhost"),
    ("frame_max", "131,072 bytes are used"),
    ("channel_max", "the broker's value is used"),
];

/// Parses the comma-separated node URLs in `text`. The result keeps their order and is never empty.
///
/// # Errors
/// The expected form, without any part of `text`.
pub(crate) fn nodes(text: &SecretString, rules: UrlRules) -> Result<Vec<Node>, String> {
    let text = text.expose_secret();
    // Spaces around commas are common in lists. Other white space is refused, because the URL parser would drop it
    // silently.
    let parts: Vec<&str> = match text.split_once(',') {
        Some(_) => text.split(',').map(|part| part.trim_matches(' ')).collect(),
        None => vec![text],
    };
    let count = parts.len();
    let numbered = |number: usize, problem: String| match count {
        1 => problem,
        _ => format!("node {} of {count}: {problem}", number + 1),
    };
    let read = |(number, part)| node(part, rules).map_err(|problem| numbered(number, problem));
    parts.into_iter().enumerate().map(read).collect()
}

fn node(text: &str, rules: UrlRules) -> Result<Node, String> {
    let shape = shape(text).map_err(str::to_owned);
    let url = shape.and_then(|()| Url::parse(text).map_err(|error| unparsed(text, error)))?;
    scheme(&url)?;
    let host = host(&url)?;
    let query = query(&url)?;
    if url.fragment().is_some() {
        return Err(format!("expected no # in the URL{ENCODE}"));
    }
    let vhost = vhost(&url)?;
    let (user, password) = login(&url, rules)?;
    let tls = url.scheme() == "amqps";
    if !tls && rules.external {
        return Err(
            "expected amqps://, because amqp.auth = \"external\" logs in with a certificate".to_owned()
        );
    }
    if !tls && !rules.allow_insecure && !is_local(&url) {
        return Err(
            "expected amqps:// (amqp:// is allowed for loopback and cluster-local hosts, or with amqp.allow_insecure)"
                .to_owned(),
        );
    }
    let port = url.port().unwrap_or(if tls { 5671 } else { 5672 });
    if port == 0 {
        return Err("expected a port from 1 to 65535".to_owned());
    }
    // Before any text about this node is created.
    if password != user {
        masking::remember(&password);
        masking::remember(url.password().unwrap_or_default());
    }
    Ok(Node { tls, host, port, user, password: password.into(), vhost, heartbeat: query })
}

/// Checks that need no URL parser.
pub(super) fn shape(text: &str) -> Result<(), &'static str> {
    match text {
        "" => {
            Err("expected a URL such as amqps://user:password@host/vhost, but it is empty (check the commas)")
        }
        text if text.ends_with(['\n', '\r']) => Err(
            "expected no line break at the end of the URL; remove the line break (echo writes one, printf '%s' does not)",
        ),
        text if text.starts_with(['"', '\'']) => Err("expected a URL without quotes around it"),
        text if text.contains(|c: char| c.is_whitespace() || c.is_control()) => Err(
            "expected no spaces or line breaks in the URL; several nodes are separated by commas, a space in a password is written %20",
        ),
        text if text.contains(';') => Err(
            "expected no ; in the URL: several nodes are separated by commas, a ; in a password is written %3B",
        ),
        _ => Ok(()),
    }
}

/// Converts a parse error into a text with a remedy.
fn unparsed(text: &str, error: url::ParseError) -> String {
    match error {
        _ if !text.contains("://") => format!("{EXPECTED}: a URL begins with amqp:// or amqps://"),
        url::ParseError::InvalidPort => format!("{EXPECTED}, with a port from 1 to 65535{ENCODE}"),
        _ => format!("{EXPECTED}{ENCODE}"),
    }
}

fn scheme(url: &Url) -> Result<(), String> {
    let instead = match url.scheme() {
        "amqp" | "amqps" if url.cannot_be_a_base() || !url.has_authority() => {
            "expected // after amqp: or amqps:"
        }
        "amqp" | "amqps" => return Ok(()),
        "pyamqp" | "librabbitmq" | "py-amqp" | "rabbitmq" | "kombu" | "tcp" => {
            "expected amqp:// (or amqps:// for TLS): only other clients know this scheme"
        }
        "amqp+ssl" | "amqp+tls" | "amqp-ssl" | "rabbitmqs" | "ssl" | "tls" => "expected amqps:// for TLS",
        "http" | "https" => "expected amqp:// or amqps://: http is for the management API, on another port",
        "mqtt" | "mqtts" | "stomp" | "ws" | "wss" => {
            "expected amqp:// or amqps://: the worker supports only AMQP 0-9-1"
        }
        _ => return Err(format!("{EXPECTED}: a URL begins with amqp:// or amqps://")),
    };
    Err(instead.to_owned())
}

/// The host of `url`, if it is unambiguous.
pub(super) fn host(url: &Url) -> Result<String, String> {
    let expected = || {
        format!("expected a host name or an address in full, as in amqps://user:password@host/vhost{ENCODE}")
    };
    match url.host() {
        Some(Host::Domain(name)) if !name.is_empty() => {
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            // Resolvers accept a plain number as an address, but people misread it.
            let last = name.trim_end_matches('.').rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
            let digits = |text: &str, radix| text.chars().all(|c| c.is_digit(radix));
            let number = name.parse::<Ipv4Addr>().is_err()
                && (digits(&last, 10) || last.strip_prefix("0x").is_some_and(|hex| digits(hex, 16)));
            if plain && !number && name.len() <= 253 { Ok(name.to_owned()) } else { Err(expected()) }
        }
        Some(Host::Ipv4(address)) => Ok(address.to_string()),
        Some(Host::Ipv6(address)) => Ok(address.to_string()),
        _ => Err(expected()),
    }
}

/// The heartbeat, which is the only supported query key.
fn query(url: &Url) -> Result<Option<u16>, String> {
    let Some(text) = url.query() else { return Ok(None) };
    // A password that contains ? is parsed as a query.
    if text.contains('@') {
        return Err(format!("expected ? only before heartbeat=SECONDS{ENCODE}"));
    }
    let mut heartbeat = None;
    for (key, value) in url.query_pairs() {
        if key == "heartbeat" {
            if heartbeat.is_some() {
                return Err("expected heartbeat only once".to_owned());
            }
            // Zero would disable the heartbeat, and a stalled peer would not be noticed.
            let seconds = value.parse::<u16>().ok().filter(|seconds| (1..=3600).contains(seconds));
            heartbeat = Some(
                seconds.ok_or("expected heartbeat in whole seconds from 1 to 3600, such as ?heartbeat=10")?,
            );
            continue;
        }
        if let Some((key, instead)) = ELSEWHERE.iter().find(|(known, _)| *known == key) {
            return Err(format!("the query key {key} is not supported: {instead}"));
        }
        if strsim::jaro_winkler(&key, "heartbeat") > 0.8 {
            return Err("unknown query key: did you mean heartbeat?".to_owned());
        }
        let plain = (1..=32).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        let which = if plain { format!("the query key {key} is") } else { "a query key is".to_owned() };
        return Err(format!("{which} unknown; heartbeat=SECONDS is the only one"));
    }
    Ok(heartbeat)
}

/// The virtual host after the host. An empty path and `/` are the default virtual host, as operators and the Cluster
/// Operator expect.
fn vhost(url: &Url) -> Result<String, String> {
    let path = url.path().strip_prefix('/').unwrap_or(url.path());
    if path.is_empty() {
        return Ok("/".to_owned());
    }
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+=".contains(&b)) {
        return Err(format!(
            "expected one virtual host after the host, written with %2F for a / and %XX for other special characters{ENCODE}"
        ));
    }
    decoded(path, "virtual host").and_then(|vhost| match vhost.len() {
        ..256 => Ok(vhost),
        _ => Err("expected a virtual host of at most 255 bytes".to_owned()),
    })
}

/// User and password; RabbitMQ's default user and password if neither is given.
fn login(url: &Url, rules: UrlRules) -> Result<(String, String), String> {
    match (url.username(), url.password()) {
        _ if rules.external => Ok((String::new(), String::new())),
        ("", None) => Ok(("guest".to_owned(), "guest".to_owned())),
        ("", Some(_)) => {
            Err(format!("expected a user before the password, as in amqps://user:password@host{ENCODE}"))
        }
        (_, None) => {
            Err(format!("expected a password after the user, as in amqps://user:password@host{ENCODE}"))
        }
        (user, Some(password)) => Ok((decoded(user, "user")?, decoded(password, "password")?)),
    }
}

/// Decodes percent-encoding in `text`. A NUL is refused, because it would end the user name within the login.
pub(super) fn decoded(text: &str, what: &str) -> Result<String, String> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| format!("expected percent-encoded UTF-8 in the {what}"))?;
    if decoded.contains(|c: char| c.is_control()) {
        return Err(format!(
            "expected no line break or other control character in the {what}; remove it (echo writes a line break, printf '%s' does not)"
        ));
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests;
