//! Verification of servers with the system's CAs and the CAs in a file.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::{
    DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{Latest, TlsError, certificates_in, other, read};

/// Maximum age of the system's CAs (about 150) before they are read again.
const SYSTEM_AGE_MAX: Duration = Duration::from_secs(60);

/// Verifies with the verifier of rustls, which is built again when one of its sources changes.
pub(super) struct Verifier {
    ca_file: Option<PathBuf>,
    provider: Arc<CryptoProvider>,
    state: Mutex<VerifierState>,
}

struct VerifierState {
    verifier: Latest<WebPkiServerVerifier>,
    system_read_at: Instant,
    /// The system's CAs in the verifier.
    system: Arc<Vec<CertificateDer<'static>>>,
    ca_bytes: Vec<u8>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("ca_file", &self.ca_file).finish_non_exhaustive()
    }
}

impl Verifier {
    pub(super) fn new(ca_file: Option<PathBuf>, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let system = Arc::new(system());
        let ca_bytes = ca_file.as_deref().map(read).transpose().map_err(other)?.unwrap_or_default();
        let verifier = Self::build(ca_file.as_ref(), &ca_bytes, &system, &provider)?;
        let verifier = Latest::new(Arc::new(verifier));
        let state = VerifierState { verifier, system, system_read_at: Instant::now(), ca_bytes };
        Ok(Self { ca_file, provider, state: Mutex::new(state) })
    }

    fn build(
        ca_file: Option<&PathBuf>,
        ca_bytes: &[u8],
        system: &[CertificateDer<'static>],
        provider: &Arc<CryptoProvider>,
    ) -> Result<WebPkiServerVerifier, Error> {
        let mut roots = RootCertStore::empty();
        // System CAs that rustls can't use are ignored, as in every TLS client.
        roots.add_parsable_certificates(system.iter().cloned());
        if let Some(path) = ca_file {
            for certificate in certificates_in(path, ca_bytes).map_err(other)? {
                let unusable = |_| other(TlsError::new(path, "one of the CA certificates is not usable"));
                roots.add(certificate).map_err(unusable)?;
            }
        }
        if roots.is_empty() {
            let problem = "there is no trusted CA: install the package ca-certificates, or set tls.ca_file";
            return Err(Error::General(problem.to_owned()));
        }
        let built =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
        let built = built.map_err(|_| Error::General("cannot build a verifier from the CAs".to_owned()))?;
        Arc::into_inner(built).ok_or_else(|| Error::General("the verifier is in use".to_owned()))
    }

    fn current(&self) -> Arc<WebPkiServerVerifier> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let read = self.rebuild(&mut state);
        state.verifier.update(read)
    }

    /// Builds a new verifier if one of its sources has changed.
    fn rebuild(&self, state: &mut VerifierState) -> Result<Option<WebPkiServerVerifier>, TlsError> {
        let ca_bytes = self.ca_file.as_deref().map(read).transpose()?.unwrap_or_default();
        let mut system = Arc::clone(&state.system);
        if state.system_read_at.elapsed() >= SYSTEM_AGE_MAX {
            state.system_read_at = Instant::now();
            // An empty list means that the package is being replaced, not that the system trusts no CA.
            let now = Some(self::system()).filter(|now| !now.is_empty() && *now != *system);
            system = now.map_or(system, Arc::new);
        }
        if Arc::ptr_eq(&system, &state.system) && ca_bytes == state.ca_bytes {
            return Ok(None);
        }
        let built = Self::build(self.ca_file.as_ref(), &ca_bytes, &system, &self.provider);
        let verifier = built.map_err(|error| match (error, &self.ca_file) {
            (Error::Other(error), Some(path)) => match error.0.downcast_ref::<TlsError>() {
                Some(error) => error.clone(),
                None => TlsError::new(path, "not usable"),
            },
            (_, path) => TlsError::new(path.as_deref().unwrap_or("the system's CAs".as_ref()), "not usable"),
        })?;
        (state.ca_bytes, state.system) = (ca_bytes, system);
        Ok(Some(verifier))
    }
}

/// The system's CAs, or the CAs in `SSL_CERT_FILE` and `SSL_CERT_DIR` if these are set. Unreadable CAs are ignored.
fn system() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.current().verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
