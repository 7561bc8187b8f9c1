//! The signature of receipts: HMAC over the body's bytes, in the header `x-hub-signature`.

use std::path::Path;

use axum::http::{HeaderMap, HeaderName};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Sha256, Sha512};
use subtle::{Choice, ConstantTimeEq};

use crate::{
    ingress::{
        config::{HUB_SIGNATURE, HubAlgorithm},
        rotating_lines::{FileLine, LineFile, LineFileError},
    },
    masking,
    telemetry::metrics::labels::ReceiptRefused,
};

/// The header of the signature.
const HEADER: HeaderName = HeaderName::from_static(HUB_SIGNATURE);
/// Length of secrets.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=512;

/// The expected form of a secret.
pub(crate) const HUB_SECRET: &str = "expected 16 to 512 printable characters without spaces";

/// True if `text` can be a secret.
pub(crate) fn is_hub_secret(text: &str) -> bool {
    SECRET_BYTES.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// A secret of the webhook.
#[derive(Debug)]
struct HubSecret(SecretString);

impl FileLine for HubSecret {
    const FILE: &'static str = "secret file";
    const EXPECTED: &'static str =
        "expected at most two lines, each with a secret of 16 to 512 printable characters without spaces";
    const EMPTY: &'static str =
        "the secret file of receipts has no secret; the secrets are withdrawn, and receipts get 401";
    const UNUSABLE: &'static str = "could not reload the secret file of receipts";
    const USABLE: &'static str = "the secret file of receipts is usable again";

    fn of(line: &str) -> Option<Self> {
        is_hub_secret(line).then(|| Self::new(line))
    }
}

impl HubSecret {
    fn new(text: &str) -> Self {
        masking::remember(text);
        Self(SecretString::from(text))
    }
}

/// The valid secrets, and the hash of signatures.
#[derive(Debug)]
pub struct HubSecrets {
    fixed: Option<HubSecret>,
    file: Option<LineFile<HubSecret>>,
    algorithm: HubAlgorithm,
}

impl HubSecrets {
    /// The secrets of the settings; `None` without any. The file is read once as a test.
    ///
    /// # Errors
    /// [`LineFileError`].
    pub(crate) fn open(
        secret: &SecretString,
        file: Option<&Path>,
        algorithm: HubAlgorithm,
    ) -> Result<Option<Self>, LineFileError> {
        let fixed = Some(secret.expose_secret()).filter(|secret| !secret.is_empty()).map(HubSecret::new);
        let file = file.map(|path| LineFile::open(path.to_owned())).transpose()?;
        Ok((fixed.is_some() || file.is_some()).then_some(Self { fixed, file, algorithm }))
    }

    /// True if there is no secret: the file is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.fixed.is_none() && self.file.as_ref().is_none_or(|file| file.current().is_empty())
    }

    /// The signature in `headers`, before the body is read.
    ///
    /// # Errors
    /// A missing one, and one that cannot be right: of another hash, cut off or not hexadecimal.
    pub(super) fn given(&self, headers: &HeaderMap) -> Result<Vec<u8>, ReceiptRefused> {
        let mut values = headers.get_all(&HEADER).iter();
        let value = values.next().ok_or(ReceiptRefused::Unsigned)?;
        // Two signatures are as wrong as none: another program may have checked the other one.
        let text = value.to_str().ok().filter(|_| values.next().is_none()).map(str::trim);
        let (prefix, bytes) = match self.algorithm {
            HubAlgorithm::Sha256 => ("sha256=", 32),
            HubAlgorithm::Sha512 => ("sha512=", 64),
        };
        text.map(|text| text.strip_prefix(prefix).unwrap_or(text))
            .and_then(bytes_of)
            .filter(|signature| signature.len() == bytes)
            .ok_or(ReceiptRefused::Signature)
    }

    /// True if `signature` is that of `body` with one of the secrets. The time does not depend on the place of a difference, or on
    /// which secret it is.
    pub(super) fn verify(&self, body: &[u8], signature: &[u8]) -> bool {
        let current = self.file.as_ref().map(LineFile::current);
        let all = self.fixed.iter().chain(current.iter().flat_map(|secrets| secrets.iter()));
        all.fold(Choice::from(0), |found, secret| found | self.matches(secret, body, signature)).into()
    }

    fn matches(&self, HubSecret(secret): &HubSecret, body: &[u8], signature: &[u8]) -> Choice {
        let key = secret.expose_secret().as_bytes();
        let expected = match self.algorithm {
            HubAlgorithm::Sha256 => mac::<Hmac<Sha256>>(key, body),
            HubAlgorithm::Sha512 => mac::<Hmac<Sha512>>(key, body),
        };
        // A key of any length is valid.
        expected.map_or(Choice::from(0), |expected| expected.ct_eq(signature))
    }
}

fn mac<M: Mac + KeyInit>(key: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    let mac = <M as KeyInit>::new_from_slice(key).ok()?;
    Some(mac.chain_update(body).finalize().into_bytes().to_vec())
}

/// The bytes of hexadecimal digits in either case.
fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const BODY: &[u8] = b"what do ya want for nothing?";
    /// RFC 4231, test case 2: the key is `Jefe`.
    const SHA256: &str = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    const SHA512: &str = "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737";

    fn secrets(algorithm: HubAlgorithm) -> HubSecrets {
        HubSecrets::open(&"Jefe".into(), None, algorithm).unwrap().unwrap()
    }

    fn accepts(secrets: &HubSecrets, header: &str) -> Result<bool, ReceiptRefused> {
        let headers = [(HEADER, HeaderValue::from_str(header).unwrap())].into_iter().collect();
        secrets.given(&headers).map(|signature| secrets.verify(BODY, &signature))
    }

    #[test]
    fn signature_is_accepted_in_either_case_with_and_without_its_prefix() {
        for (algorithm, name, digits) in
            [(HubAlgorithm::Sha256, "sha256", SHA256), (HubAlgorithm::Sha512, "sha512", SHA512)]
        {
            let secrets = secrets(algorithm);
            for header in
                [digits.to_owned(), digits.to_uppercase(), format!("{name}={digits}"), format!(" {digits} ")]
            {
                assert_eq!(accepts(&secrets, &header), Ok(true), "{header}");
            }
            let wrong = digits.replace('7', "8");
            assert_eq!(accepts(&secrets, &wrong), Ok(false));
            assert!(!secrets.verify(b"another body", &bytes_of(digits).unwrap()));
        }
    }

    #[test]
    fn signature_that_cannot_be_right_is_refused_before_the_body() {
        let secrets = secrets(HubAlgorithm::Sha256);
        for wrong in ["", &SHA256[..62], &SHA256[..63], &format!("{SHA256}00"), "sha256=", SHA512] {
            assert_eq!(accepts(&secrets, wrong), Err(ReceiptRefused::Signature), "{wrong}");
        }
        for wrong in [format!("sha512={SHA256}"), format!("sha1={SHA256}"), SHA256.replace('5', "+")] {
            assert_eq!(accepts(&secrets, &wrong), Err(ReceiptRefused::Signature), "{wrong}");
        }
        assert_eq!(secrets.given(&HeaderMap::new()), Err(ReceiptRefused::Unsigned));
        let mut two = HeaderMap::new();
        two.append(HEADER, HeaderValue::from_static(SHA256));
        two.append(HEADER, HeaderValue::from_static(SHA256));
        assert_eq!(secrets.given(&two), Err(ReceiptRefused::Signature));
    }

    #[tokio::test(start_paused = true)]
    async fn file_with_two_secrets_accepts_both_and_is_read_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (old, new) = ("the-old-secret-of-connect", "the-new-secret-of-connect");
        let write = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            // A file that was changed a moment ago may be half written.
            let before = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
            file.as_file().set_modified(before).unwrap();
        };
        write(&format!("{old}\n{new}\n"));
        let secrets = HubSecrets::open(&"".into(), Some(file.path()), HubAlgorithm::Sha256).unwrap().unwrap();
        let signed = |secret: &str| mac::<Hmac<Sha256>>(secret.as_bytes(), BODY).unwrap();
        let accepted = || [old, new].map(|secret| secrets.verify(BODY, &signed(secret)));
        assert_eq!(accepted(), [true, true]);
        for (text, expected) in [(new, [false, true]), ("", [false, false]), (old, [true, false])] {
            write(text);
            tokio::time::advance(std::time::Duration::from_secs(2)).await;
            assert_eq!(accepted(), expected, "{text}");
        }
        assert!(HubSecrets::open(&"".into(), None, HubAlgorithm::Sha256).unwrap().is_none());
    }
}
