//! Verification of the clients' certificates with the CAs in a file.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{Latest, TlsError, certificates, other, server::FRESH};

/// Requires a certificate that a CA in the file has signed. The file is read again when it changes.
pub(super) struct TrustedClients {
    path: PathBuf,
    provider: Arc<CryptoProvider>,
    latest: Mutex<(Instant, Latest<Arc<dyn ClientCertVerifier>>)>,
}

/// Checks that the file with the clients' CAs is usable now.
///
/// # Errors
/// [`TlsError`].
pub(crate) fn check_client_ca(path: &Path) -> Result<(), TlsError> {
    verifier(path, &super::provider()).map(drop)
}

fn verifier(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    let unusable = || TlsError::new(path, "one of the CA certificates is not usable");
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|_| unusable())?;
    }
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    built.map_err(|_| unusable())
}

impl TrustedClients {
    pub(super) fn new(path: PathBuf, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let first = verifier(&path, &provider).map_err(other)?;
        let latest = Mutex::new((Instant::now(), Latest::new(Arc::new(first))));
        Ok(Self { path, provider, latest })
    }

    fn current(&self) -> Arc<Arc<dyn ClientCertVerifier>> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let (read_at, trusted) = &mut *latest;
        if read_at.elapsed() < FRESH {
            return trusted.last();
        }
        *read_at = Instant::now();
        trusted.update(verifier(&self.path, &self.provider).map(Some))
    }
}

impl fmt::Debug for TrustedClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustedClients").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for TrustedClients {
    /// No hints: the CAs can change, and a client has one certificate for the ingress.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.current().verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
