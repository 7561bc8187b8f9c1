//! URLs of peers: files that hold them, and the hosts to which secrets may go without TLS.

use std::{fs::File, io::Read as _, net::IpAddr, path::Path};

use secrecy::SecretString;
use url::{Host, Url};

/// Largest file with a URL that is read, in bytes.
const URL_FILE_BYTES_MAX: u64 = 64 * 1024;

/// What the file at `path` holds.
///
/// # Errors
/// Where it can't be read.
pub(crate) fn read_url_file(path: &Path) -> std::io::Result<SecretString> {
    let mut text = String::new();
    File::open(path)?.take(URL_FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text.trim().into())
}

/// Whether secrets may go to this host without TLS: this machine, or a name that only a cluster's own DNS knows.
pub(crate) fn is_local(url: &Url) -> bool {
    let Some(host) = url.host_str().map(|host| host.trim_start_matches('[').trim_end_matches(']')) else {
        return false;
    };
    if let Ok(address) = host.parse::<IpAddr>() {
        return address.is_loopback();
    }
    let labels: Vec<&str> = host.trim_end_matches('.').split('.').collect();
    labels.len() == 1
        || labels.last() == Some(&"svc")
        || labels.ends_with(&["cluster", "local"])
        || is_loopback(url)
}

/// Whether `url` names this machine itself.
#[must_use]
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
