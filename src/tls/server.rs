//! TLS for connections that this program accepts.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{ClientFiles, Latest, certified_key, clients::TrustedClients, other, provider};

/// Maximum age of the certificate before its files are read again. Peers that are not authenticated start handshakes, so
/// not every handshake may read files.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// The configuration of a server that shows the certificate in `files`. With `client_ca`, clients must show a certificate that a
/// CA in this file has signed. The files are read again when they change.
///
/// # Errors
/// [`rustls::Error`] if the files can't be used.
pub(crate) fn server(files: ClientFiles, client_ca: Option<PathBuf>) -> Result<ServerConfig, rustls::Error> {
    let provider = provider();
    let certificate = ServedCertificate::new(files, Arc::clone(&provider))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions()?;
    let knows_clients = client_ca.is_some();
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(Arc::new(TrustedClients::new(path, provider)?)),
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificate));
    if knows_clients {
        // A resumed session shows no certificate, so a CA that is no longer trusted would not be noticed.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Shows the certificate that is currently in the files.
struct ServedCertificate {
    files: ClientFiles,
    provider: Arc<CryptoProvider>,
    latest: Mutex<(Instant, Latest<CertifiedKey>)>,
}

impl ServedCertificate {
    fn new(files: ClientFiles, provider: Arc<CryptoProvider>) -> Result<Self, rustls::Error> {
        let key = certified_key(&files, &provider).map_err(other)?;
        let latest = Mutex::new((Instant::now(), Latest::new(Arc::new(key))));
        Ok(Self { files, provider, latest })
    }

    fn current(&self) -> Arc<CertifiedKey> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let (read_at, certificate) = &mut *latest;
        if read_at.elapsed() < FRESH {
            return certificate.last();
        }
        *read_at = Instant::now();
        certificate.update(certified_key(&self.files, &self.provider).map(Some))
    }
}

impl fmt::Debug for ServedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServedCertificate").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for ServedCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}
