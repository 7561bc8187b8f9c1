//! TLS for connections that this program accepts.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{ClientFiles, Latest, certified_key, other, provider};

/// Maximum age of the certificate before its files are read again. Peers that are not authenticated start handshakes, so
/// not every handshake may read files.
const FRESH: Duration = Duration::from_secs(1);

/// The configuration of a server that shows the certificate in `files`. The files are read again when they change.
///
/// # Errors
/// [`rustls::Error`] if the files can't be used.
pub(crate) fn server(files: ClientFiles) -> Result<ServerConfig, rustls::Error> {
    let provider = provider();
    let certificate = ServedCertificate::new(files, Arc::clone(&provider))?;
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(certificate));
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
            return certificate.update(Ok(None));
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
