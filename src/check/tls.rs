//! Expiry of the certificates in the files that TLS uses.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};

use super::{CheckGroup::Exposure, Finding};
use crate::{config::Loaded, tls};

/// A certificate that expires sooner is a warning, early enough for a manual renewal.
const SOON: SignedDuration = SignedDuration::from_hours(21 * 24);

/// One finding for each configured file, `now`.
pub(super) fn all(loaded: &Loaded, now: Timestamp) -> Vec<Finding> {
    let amqp = &loaded.config.amqp;
    [
        ("tls.ca_file", CertificateFile::Authorities, &loaded.config.tls.ca_file),
        ("amqp.client_cert_file", CertificateFile::Chain, &amqp.client_cert_file),
        ("ingress.tls_cert_file", CertificateFile::Chain, &loaded.config.ingress.tls_cert_file),
        ("ingress.client_ca_file", CertificateFile::Authorities, &loaded.config.ingress.client_ca_file),
    ]
    .into_iter()
    .filter_map(|(key, kind, path)| Some(file(key, kind, path.as_deref()?, now)))
    .collect()
}

/// Relation between the certificates of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CertificateFile {
    /// Independent certificates.
    Authorities,
    /// A certificate with its issuers; if one has expired, the whole chain is invalid.
    Chain,
}

fn file(key: &str, kind: CertificateFile, path: &Path, now: Timestamp) -> Finding {
    let what = format!("{key} {}", path.display());
    match tls::dates(path) {
        Ok(dates) => of(what, kind, &dates, now),
        Err(error) => Exposure.fail(what, error.problem).advise("put PEM certificates into the file"),
    }
}

/// The finding for certificates with these `dates`: the first to expire, or one that is not valid yet.
fn of(what: String, kind: CertificateFile, dates: &[tls::Dates], now: Timestamp) -> Finding {
    const ADVICE: &str =
        "renew the certificate and put it into the file; the worker reads it again at its next connection";
    let day = |time: Timestamp| time.strftime("%Y-%m-%d").to_string();
    let count = dates.len();
    let Some(first) = dates.iter().min_by_key(|dates| dates.ends) else {
        return Exposure
            .fail(what, "the file contains no certificate")
            .advise("put PEM certificates into the file");
    };
    let which =
        if count == 1 { "the certificate".to_owned() } else { format!("the first of {count} certificates") };
    let left = first.ends.duration_since(now);
    if left.is_negative() {
        let other = kind == CertificateFile::Authorities && dates.iter().any(|dates| dates.ends > now);
        let detail = format!("{which} expired on {}", day(first.ends));
        // During a rotation of a CA the old one stays beside the new one.
        return if other {
            Exposure.warn(what, detail, "remove it if nothing needs it any more")
        } else {
            Exposure.fail(what, detail).advise(ADVICE)
        };
    }
    if let Some(early) = dates.iter().find(|dates| dates.begins > now) {
        let detail = format!("a certificate is not valid before {}", day(early.begins));
        return Exposure.warn(what, detail, "check this machine's clock (NTP), or wait");
    }
    let days = left.as_hours() / 24;
    let detail = format!("{which} expires on {}, in {days} days", day(first.ends));
    if left < SOON { Exposure.warn(what, detail, ADVICE) } else { Exposure.pass(what, detail) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::CheckVerdict;

    #[test]
    fn certificate_near_expiry_warns_and_expired_one_fails() {
        let now: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
        let day = SignedDuration::from_hours(24);
        let dates =
            |begins: i32, ends: i32| tls::Dates { begins: now + day * begins, ends: now + day * ends };
        for (dates, result, expected) in [
            (vec![dates(-1, 365)], CheckVerdict::Pass, "the certificate expires on 2027-11-25, in 365 days"),
            (
                vec![dates(-1, 365), dates(-1, 20)],
                CheckVerdict::Warn,
                "the first of 2 certificates expires on 2026-12-15, in 20 days",
            ),
            (vec![dates(-9, -1)], CheckVerdict::Fail, "the certificate expired on 2026-11-24"),
            (vec![dates(-9, -1), dates(-1, 365)], CheckVerdict::Warn, "the first of 2 certificates expired"),
            (vec![dates(1, 365)], CheckVerdict::Warn, "not valid before 2026-11-26"),
        ] {
            let found = of("file".to_owned(), CertificateFile::Authorities, &dates, now);
            assert_eq!(found.result, result, "{found:?}");
            assert!(found.detail.contains(expected), "{found:?}");
        }
        let chain = [dates(-9, 365), dates(-9, -1)];
        let found = of("file".to_owned(), CertificateFile::Chain, &chain, now);
        assert_eq!(found.result, CheckVerdict::Fail, "no broker accepts it: {found:?}");
    }
}
