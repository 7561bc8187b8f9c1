//! Validity dates of certificates.

use std::path::Path;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{TlsError, certificates};

/// Validity of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dates {
    /// Not before.
    pub begins: Timestamp,
    /// Not after.
    pub ends: Timestamp,
}

/// The dates of each certificate in a PEM file; never empty.
///
/// # Errors
/// [`TlsError`] if the file can't be used.
pub(crate) fn dates(path: &Path) -> Result<Vec<Dates>, TlsError> {
    Ok(certificates(path)?.iter().filter_map(of).collect())
}

/// The dates of one certificate; `None` if it is not an X.509 certificate.
pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Dates> {
    let (rest, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    let time = |seconds| Timestamp::from_second(seconds).ok();
    let (begins, ends) = (time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?);
    rest.is_empty().then_some(Dates { begins, ends })
}
