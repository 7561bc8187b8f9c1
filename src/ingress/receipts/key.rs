//! The key of receipts, in a header of its own. Webex Connect adds it to each request, or a proxy in front does.

use std::path::Path;

use axum::http::{HeaderMap, HeaderName};
use secrecy::{ExposeSecret, SecretString};
use subtle::{Choice, ConstantTimeEq};

use super::signature::is_hub_secret;
use crate::{
    ingress::{
        client_tokens::digest_of,
        config::{KeyHeader, TokenDigest},
        head,
        rotating_lines::{FileLine, LineFile, LineFileError},
    },
    masking,
    telemetry::metrics::labels::ReceiptRefused,
};

/// The digest of a key.
#[derive(Debug)]
struct ReceiptKey(TokenDigest);

impl FileLine for ReceiptKey {
    const FILE: &'static str = "key file";
    const EXPECTED: &'static str =
        "expected at most two lines, each with a key of 16 to 512 printable characters without spaces";
    const EMPTY: &'static str =
        "the key file of receipts has no key; the keys are withdrawn, and receipts get 401";
    const UNUSABLE: &'static str = "could not reload the key file of receipts";
    const USABLE: &'static str = "the key file of receipts is usable again";

    fn of(line: &str) -> Option<Self> {
        // A key has the form of a hub secret.
        is_hub_secret(line).then(|| Self::new(line))
    }
}

impl ReceiptKey {
    fn new(text: &str) -> Self {
        masking::remember(text);
        Self(digest_of(text))
    }
}

/// The valid keys, and the header that has one of them.
#[derive(Debug)]
pub struct ReceiptKeys {
    header: HeaderName,
    fixed: Option<ReceiptKey>,
    file: Option<LineFile<ReceiptKey>>,
}

impl ReceiptKeys {
    /// The keys of the settings; `None` without any. The file is read once as a test.
    ///
    /// # Errors
    /// [`LineFileError`].
    pub(crate) fn open(
        header: &KeyHeader,
        key: &SecretString,
        file: Option<&Path>,
    ) -> Result<Option<Self>, LineFileError> {
        let fixed = Some(key.expose_secret()).filter(|key| !key.is_empty()).map(ReceiptKey::new);
        let file = file.map(|path| LineFile::open(path.to_owned())).transpose()?;
        let header = header.name().clone();
        Ok((fixed.is_some() || file.is_some()).then_some(Self { header, fixed, file }))
    }

    /// True if there is no key: the file is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.fixed.is_none() && self.file.as_ref().is_none_or(|file| file.current().is_empty())
    }

    /// The name of the header.
    pub(super) fn header(&self) -> &str {
        self.header.as_str()
    }

    /// Compares the key in `headers` with all keys. The time does not depend on the place of a difference, or on which key it is.
    ///
    /// # Errors
    /// A missing key, several, and a wrong one.
    pub(super) fn verify(&self, headers: &HeaderMap) -> Result<(), ReceiptRefused> {
        // Two keys are as wrong as none: another program may have checked the other one.
        let value = head::single(headers, self.header.clone()).map_err(|()| ReceiptRefused::Key)?;
        let text = value.ok_or(ReceiptRefused::Unsigned)?.to_str().map_err(|_| ReceiptRefused::Key)?;
        let given = digest_of(text.trim());
        let current = self.file.as_ref().map(LineFile::current);
        let all = self.fixed.iter().chain(current.iter().flat_map(|keys| keys.iter()));
        let found = all.fold(Choice::from(0), |found, ReceiptKey(known)| found | known.0.ct_eq(&given.0));
        if found.into() { Ok(()) } else { Err(ReceiptRefused::Key) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    const KEY: &str = "the-key-of-the-receipts";
    const NEW: &str = "the-new-key-of-the-receipts";

    fn header() -> KeyHeader {
        KeyHeader::try_from("X-Api-Key".to_owned()).unwrap()
    }

    fn verify(keys: &ReceiptKeys, given: &[&str]) -> Result<(), ReceiptRefused> {
        let mut headers = HeaderMap::new();
        for value in given {
            headers.append("x-api-key", value.parse().unwrap());
        }
        keys.verify(&headers)
    }

    #[test]
    fn key_is_right_missing_or_wrong() {
        let keys = ReceiptKeys::open(&header(), &KEY.into(), None).unwrap().unwrap();
        assert_eq!(verify(&keys, &[KEY]), Ok(()));
        assert_eq!(verify(&keys, &[]), Err(ReceiptRefused::Unsigned));
        for wrong in [&[""][..], &[&KEY[1..]], &[NEW], &[KEY, KEY], &["Bearer the-key-of-the-receipts"]] {
            assert_eq!(verify(&keys, wrong), Err(ReceiptRefused::Key), "{wrong:?}");
        }
        assert!(ReceiptKeys::open(&header(), &"".into(), None).unwrap().is_none());
    }

    #[test]
    fn header_has_letters_digits_and_hyphens_and_is_not_the_signatures() {
        for wrong in ["", "x api key", "x_key", "x-hub-signature", "X-Hub-Signature", "ö"] {
            assert!(KeyHeader::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn file_with_two_keys_accepts_both_and_is_read_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            // A file that was changed a moment ago may be half written.
            file.as_file().set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        };
        write(&format!("{KEY}\n{NEW}\n"));
        let keys = ReceiptKeys::open(&header(), &"".into(), Some(file.path())).unwrap().unwrap();
        let accepted = || [KEY, NEW].map(|key| verify(&keys, &[key]).is_ok());
        assert_eq!(accepted(), [true, true]);
        for (text, expected) in [(NEW, [false, true]), ("", [false, false]), (KEY, [true, false])] {
            write(text);
            tokio::time::advance(Duration::from_secs(2)).await;
            assert_eq!(accepted(), expected, "{text}");
        }
    }
}
