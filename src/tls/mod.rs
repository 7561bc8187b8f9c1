//! TLS client for the broker, Redis, Webex and the collector: trusted servers and the client certificate. The files are
//! read again at each handshake, so new files need no restart.
//!
//! A file that becomes unreadable or unusable is logged once, and its last usable content stays in use: the replacement
//! of a certificate must not stop the service.

mod clients;
mod dates;
pub(crate) mod server;
#[cfg(test)]
mod tests;
mod verifier;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ClientConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use tracing::{info, warn};

pub(crate) use clients::check_client_ca;
pub(crate) use dates::{Dates, dates};
use verifier::Verifier;

/// Maximum number of bytes that are read from a file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The configured TLS files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// `tls.ca_file`: CAs that are trusted in addition to the system's.
    pub ca: Option<PathBuf>,
    /// The client certificate and its key.
    pub client: Option<ClientFiles>,
}

/// A certificate of this program and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// The certificate, followed by its intermediate certificates.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// An unusable file. The text contains no part of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct TlsError {
    pub path: PathBuf,
    pub problem: String,
}

impl TlsError {
    fn new(path: &Path, problem: impl Into<String>) -> Self {
        Self { path: path.to_owned(), problem: problem.into() }
    }
}

/// The crypto provider of all TLS connections.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl ClientFiles {
    /// Checks that the files are usable now.
    ///
    /// # Errors
    /// The first unusable file.
    pub(crate) fn check(&self) -> Result<(), TlsError> {
        certified_key(self, &provider()).map(drop)
    }
}

impl Files {
    /// The client configuration of these files. HTTPS clients use [`https`], which adds their protocols.
    ///
    /// # Errors
    /// [`rustls::Error`] if a file can't be used (with a [`TlsError`] inside), or if there is no trusted CA.
    pub fn config(&self) -> Result<ClientConfig, rustls::Error> {
        let provider = provider();
        let verifier = Verifier::new(self.ca.clone(), Arc::clone(&provider))?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        Ok(match &self.client {
            None => builder.with_no_client_auth(),
            Some(files) => builder
                .with_client_cert_resolver(Arc::new(PresentedCertificate::new(files.clone(), provider)?)),
        })
    }

    /// Checks that the files are usable now.
    ///
    /// # Errors
    /// The first unusable file.
    pub fn check(&self) -> Result<(), TlsError> {
        if let Some(path) = &self.ca {
            certificates(path)?;
        }
        match &self.client {
            Some(files) => certified_key(files, &provider()).map(drop),
            None => Ok(()),
        }
    }
}

/// TLS configuration for the connections to one peer. Its files must be usable at the first connection. Later, the last
/// usable content stays in use.
#[derive(Debug)]
pub(crate) struct Connections {
    files: Files,
    config: Mutex<Option<Arc<ClientConfig>>>,
}

impl Connections {
    #[must_use]
    pub(crate) const fn new(files: Files) -> Self {
        Self { files, config: Mutex::new(None) }
    }

    /// The client configuration.
    ///
    /// # Errors
    /// The same as [`Files::config`], until that succeeds once.
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut made = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = &*made {
            return Ok(Arc::clone(config));
        }
        let mut config = self.files.config()?;
        // A resumed session shows no certificate, so a replaced certificate would not be noticed.
        config.resumption = Resumption::disabled();
        Ok(Arc::clone(made.insert(Arc::new(config))))
    }
}

/// The configuration of HTTPS clients, which trust `ca_file` in addition to the system's CAs and use HTTP/2 if the server
/// supports it.
///
/// # Errors
/// The same as [`Files::config`].
pub(crate) fn https(ca_file: Option<&Path>) -> Result<ClientConfig, rustls::Error> {
    let files = Files { ca: ca_file.map(Path::to_owned), client: None };
    let mut config = files.config()?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    file.map_err(|error| TlsError::new(path, error.kind().to_string()))?;
    Ok(bytes)
}

/// The certificates in a PEM file; never empty.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates_in(path, &read(path)?)
}

fn certificates_in(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let certificates = read.map_err(|_| TlsError::new(path, "expected certificates in PEM format"))?;
    if certificates.is_empty() {
        return Err(TlsError::new(
            path,
            "expected certificates in PEM format (-----BEGIN CERTIFICATE-----), but there is none",
        ));
    }
    if certificates.iter().any(|certificate| dates::of(certificate).is_none()) {
        return Err(TlsError::new(path, "one of the certificates is not an X.509 certificate"));
    }
    Ok(certificates)
}

fn certified_key(files: &ClientFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|_| {
        TlsError::new(
            &files.key,
            "expected a private key in PEM format without a password (-----BEGIN PRIVATE KEY-----)",
        )
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        let problem = match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("the key does not match the certificate in {}", files.certificate.display())
            }
            _ => "expected an RSA, ECDSA or Ed25519 key".to_owned(),
        };
        TlsError::new(&files.key, problem)
    })
}

/// The content of a file that is in use: the current content, or the last usable content.
struct Latest<T> {
    value: Arc<T>,
    /// True if the current content is not usable.
    stale: bool,
}

impl<T> Latest<T> {
    const fn new(value: Arc<T>) -> Self {
        Self { value, stale: false }
    }

    /// The last usable content, without a new read.
    fn last(&self) -> Arc<T> {
        Arc::clone(&self.value)
    }

    /// Updates the value with newly read content. Logs only when reading starts to fail and when it recovers.
    fn update(&mut self, read: Result<Option<T>, TlsError>) -> Arc<T> {
        match read {
            Ok(value) => {
                if std::mem::take(&mut self.stale) {
                    info!("TLS files are usable again");
                }
                if let Some(value) = value {
                    self.value = Arc::new(value);
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.stale, true) {
                    warn!(%error, "could not load a TLS file; still using its last valid content");
                }
            }
        }
        Arc::clone(&self.value)
    }
}

/// Presents the client certificate that is currently in the files.
struct PresentedCertificate {
    files: ClientFiles,
    provider: Arc<CryptoProvider>,
    latest: Mutex<Latest<CertifiedKey>>,
}

impl PresentedCertificate {
    fn new(files: ClientFiles, provider: Arc<CryptoProvider>) -> Result<Self, rustls::Error> {
        let key = certified_key(&files, &provider).map_err(other)?;
        Ok(Self { files, provider, latest: Mutex::new(Latest::new(Arc::new(key))) })
    }
}

impl fmt::Debug for PresentedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresentedCertificate").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResolvesClientCert for PresentedCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let read = certified_key(&self.files, &self.provider).map(Some);
        Some(self.latest.lock().unwrap_or_else(PoisonError::into_inner).update(read))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn other(error: TlsError) -> rustls::Error {
    rustls::Error::Other(rustls::OtherError(Arc::new(error)))
}
