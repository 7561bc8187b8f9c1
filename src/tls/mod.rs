//! TLS as a client, one way for the broker, Redis, Webex and the collector: which servers are trusted, and which certificate
//! is shown. The files are read again at each handshake, so that what replaces them needs no restart.
//!
//! A file that can't be read or used any more is said once, and what it held last stays in force: a certificate that is being
//! replaced must not end the service.

mod dates;
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

pub(crate) use dates::{Dates, dates};
use verifier::Verifier;

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The files that TLS takes part in its work from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// `tls.ca_file`: trusted beside the system's.
    pub ca: Option<PathBuf>,
    /// The client certificate and its key.
    pub client: Option<ClientFiles>,
}

/// A certificate to show, and the key to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// The certificate, and those between it and its CA.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Why a file can't be used. Shows nothing of what is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct TlsError {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl TlsError {
    fn new(path: &Path, problem: impl Into<String>) -> Self {
        Self { path: path.to_owned(), problem: problem.into() }
    }
}

/// The one provider of ciphers.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Files {
    /// How to connect. HTTPS clients say which protocols they speak, by [`https`].
    ///
    /// # Errors
    /// [`TlsError`] for a file that can't be used now, or [`rustls::Error`] if this system trusts no CA at all.
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

    /// Whether the files can be used now.
    ///
    /// # Errors
    /// The first that can't.
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

/// Connections of one peer's. What its files hold must be usable at the first; from then on what they held last stays in force.
#[derive(Debug)]
pub(crate) struct Connections {
    files: Files,
    config: Mutex<Option<Arc<ClientConfig>>>,
}

impl Connections {
    /// With what is in these files.
    #[must_use]
    pub(crate) const fn new(files: Files) -> Self {
        Self { files, config: Mutex::new(None) }
    }

    /// How to connect.
    ///
    /// # Errors
    /// As [`Files::config`], until that succeeded once.
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut made = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = &*made {
            return Ok(Arc::clone(config));
        }
        let mut config = self.files.config()?;
        // A session that is resumed shows no certificate: one that was replaced would not be noticed.
        config.resumption = Resumption::disabled();
        Ok(Arc::clone(made.insert(Arc::new(config))))
    }
}

/// How HTTPS clients connect that trust `ca_file` beside the system's CAs: HTTP/2 where the server speaks it.
///
/// # Errors
/// As [`Files::config`].
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

/// The certificates in a PEM file, never none.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates_in(path, &read(path)?)
}

fn certificates_in(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let certificates = read.map_err(|_| TlsError::new(path, "expected certificates as PEM"))?;
    if certificates.is_empty() {
        return Err(TlsError::new(
            path,
            "expected certificates as PEM (-----BEGIN CERTIFICATE-----), and there is none",
        ));
    }
    if certificates.iter().any(|certificate| dates::of(certificate).is_none()) {
        return Err(TlsError::new(path, "expected X.509 certificates, and one of them is none"));
    }
    Ok(certificates)
}

fn certified_key(files: &ClientFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|_| {
        TlsError::new(
            &files.key,
            "expected a private key as PEM, without a password (-----BEGIN PRIVATE KEY-----)",
        )
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        let problem = match error {
            rustls::Error::InconsistentKeys(_) => {
                format!(
                    "expected the key of the certificate in {}, and it is another's",
                    files.certificate.display()
                )
            }
            _ => "expected an RSA, ECDSA or Ed25519 key".to_owned(),
        };
        TlsError::new(&files.key, problem)
    })
}

/// What is in force of a file: what it holds, or held last.
struct Latest<T> {
    value: Arc<T>,
    /// It holds nothing that can be used now.
    stale: bool,
}

impl<T> Latest<T> {
    const fn new(value: Arc<T>) -> Self {
        Self { value, stale: false }
    }

    /// Takes in what was read just now. Says when that begins to fail, and when it ends to.
    fn take_in(&mut self, read: Result<Option<T>, TlsError>) -> Arc<T> {
        match read {
            Ok(value) => {
                if std::mem::take(&mut self.stale) {
                    info!("the files for TLS can be used again");
                }
                if let Some(value) = value {
                    self.value = Arc::new(value);
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.stale, true) {
                    warn!(%error, "a file for TLS is not usable; its last content stays in force");
                }
            }
        }
        Arc::clone(&self.value)
    }
}

/// Shows the client certificate that is in the files at that moment.
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
        Some(self.latest.lock().unwrap_or_else(PoisonError::into_inner).take_in(read))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn other(error: TlsError) -> rustls::Error {
    rustls::Error::Other(rustls::OtherError(Arc::new(error)))
}
