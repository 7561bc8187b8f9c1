//! URLs of peers: files with URLs, and the hosts to which secrets may be sent without TLS.

use std::{fs::File, io::Read as _, net::IpAddr, path::Path};

use secrecy::SecretString;
use url::{Host, Url};

/// Maximum number of bytes that are read from a file with a URL.
const URL_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Reads the URL in the file at `path`.
///
/// # Errors
/// The I/O error if the file can't be read.
pub(crate) fn read_url_file(path: &Path) -> std::io::Result<SecretString> {
    let mut text = String::new();
    File::open(path)?.take(URL_FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text.trim().into())
}

/// True if secrets may be sent to this host without TLS: a loopback host, or a name that only the cluster's DNS knows.
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

/// True if `url` has a loopback host.
#[must_use]
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
