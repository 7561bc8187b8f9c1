//! Which servers are trusted: those that the system's CAs vouch for, and those of the CAs in a file.

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

/// How long the system's CAs, some hundred and fifty, are taken as they were read.
const SYSTEM_AGE_MAX: Duration = Duration::from_secs(60);

/// Verifies by rustls's own verifier, which it makes again when one of its sources changed.
pub(super) struct Verifier {
    ca_file: Option<PathBuf>,
    provider: Arc<CryptoProvider>,
    state: Mutex<VerifierState>,
}

struct VerifierState {
    verifier: Latest<WebPkiServerVerifier>,
    system_read_at: Instant,
    /// What the verifier was made of.
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
        let verifier = Self::make(ca_file.as_ref(), &ca_bytes, &system, &provider)?;
        let verifier = Latest::new(Arc::new(verifier));
        let state = VerifierState { verifier, system, system_read_at: Instant::now(), ca_bytes };
        Ok(Self { ca_file, provider, state: Mutex::new(state) })
    }

    fn make(
        ca_file: Option<&PathBuf>,
        ca_bytes: &[u8],
        system: &[CertificateDer<'static>],
        provider: &Arc<CryptoProvider>,
    ) -> Result<WebPkiServerVerifier, Error> {
        let mut roots = RootCertStore::empty();
        // One that rustls can't use is passed over, as every TLS client does with the system's.
        roots.add_parsable_certificates(system.iter().cloned());
        if let Some(path) = ca_file {
            for certificate in certificates_in(path, ca_bytes).map_err(other)? {
                let unfit =
                    |_| other(TlsError::new(path, "expected the certificates of CAs, and one can't be used"));
                roots.add(certificate).map_err(unfit)?;
            }
        }
        if roots.is_empty() {
            let problem = "no CA is trusted: install the package ca-certificates, or set tls.ca_file";
            return Err(Error::General(problem.to_owned()));
        }
        let built =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
        let built = built.map_err(|_| Error::General("no verifier can be made of the CAs".to_owned()))?;
        Arc::into_inner(built).ok_or_else(|| Error::General("the verifier is in use".to_owned()))
    }

    fn current(&self) -> Arc<WebPkiServerVerifier> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let read = self.again(&mut state);
        state.verifier.take_in(read)
    }

    /// A verifier if one of its sources is another than before.
    fn again(&self, state: &mut VerifierState) -> Result<Option<WebPkiServerVerifier>, TlsError> {
        let ca_bytes = self.ca_file.as_deref().map(read).transpose()?.unwrap_or_default();
        let mut system = Arc::clone(&state.system);
        if state.system_read_at.elapsed() >= SYSTEM_AGE_MAX {
            state.system_read_at = Instant::now();
            // None at all are those of a package that is being replaced, and not of a system that trusts nobody.
            let now = Some(self::system()).filter(|now| !now.is_empty() && *now != *system);
            system = now.map_or(system, Arc::new);
        }
        if Arc::ptr_eq(&system, &state.system) && ca_bytes == state.ca_bytes {
            return Ok(None);
        }
        let made = Self::make(self.ca_file.as_ref(), &ca_bytes, &system, &self.provider);
        let verifier = made.map_err(|error| match (error, &self.ca_file) {
            (Error::Other(error), Some(path)) => match error.0.downcast_ref::<TlsError>() {
                Some(error) => error.clone(),
                None => TlsError::new(path, "can't be used"),
            },
            (_, path) => {
                TlsError::new(path.as_deref().unwrap_or("the system's CAs".as_ref()), "can't be used")
            }
        })?;
        (state.ca_bytes, state.system) = (ca_bytes, system);
        Ok(Some(verifier))
    }
}

/// The system's CAs, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name in their place. What can't be read is passed over.
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
