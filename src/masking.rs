//! Last protection of this program's secrets. A text of a library, the broker or a proxy may repeat a secret that was
//! sent. Such a text goes through [`masked`] before it reaches a log, an error or a header. Code that reads a secret
//! passes the secret to [`remember`].
//!
//! There is one list of secrets for the whole process, because any text may repeat any secret.

use std::{
    borrow::Cow,
    collections::VecDeque,
    io::{self, Write},
    sync::{PoisonError, RwLock},
};

use secrecy::{ExposeSecret, SecretString};

/// Replacement text for a secret.
const HIDDEN: &str = "[hidden]";
/// Minimum length of a masked secret, because masking shorter texts would make messages unreadable.
const LENGTH_MIN: usize = 4;
/// Maximum number of stored forms of secrets; the least recently remembered form is dropped first. A worker has six
/// secrets, which rotate at most once an hour, so this is enough for more than a month.
const KEPT_MAX: usize = 2048;

static KNOWN: RwLock<KnownSecrets> = RwLock::new(KnownSecrets(VecDeque::new()));

/// Forms of secrets; the most recently remembered is last.
struct KnownSecrets(VecDeque<SecretString>);

/// Masks `secret` from now on, in its plain form and in its JSON form.
pub(crate) fn remember(secret: &str) {
    let json = serde_json::Value::from(secret).to_string();
    let json = json.trim_matches('"');
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    for form in [secret, json] {
        known.add(form);
    }
}

/// Masks `secret` no more, because it has expired and others follow it.
pub(crate) fn forget(secret: &str) {
    KNOWN.write().unwrap_or_else(PoisonError::into_inner).0.retain(|one| one.expose_secret() != secret);
}

impl KnownSecrets {
    fn add(&mut self, form: &str) {
        if form.len() < LENGTH_MIN {
            return;
        }
        self.0.retain(|one| one.expose_secret() != form);
        self.0.push_back(form.into());
        let surplus = self.0.len().saturating_sub(KEPT_MAX);
        self.0.drain(..surplus);
    }
}

/// `text` with all known secrets masked.
#[must_use]
pub(crate) fn masked(text: &str) -> Cow<'_, str> {
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    let mut found: Vec<&str> =
        known.0.iter().map(ExposeSecret::expose_secret).filter(|one| text.contains(*one)).collect();
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    // Longest first, because one secret may be a part of another.
    found.sort_unstable_by_key(|one| std::cmp::Reverse(one.len()));
    Cow::Owned(found.into_iter().fold(text.to_owned(), |text, one| text.replace(one, HIDDEN)))
}

/// A writer that masks secrets. Each write must contain a complete text, as log lines do.
#[derive(Debug)]
pub(crate) struct Masked<W>(pub W);

impl<W: Write> Write for Masked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match str::from_utf8(bytes).map(masked) {
            Ok(Cow::Owned(text)) => self.0.write_all(text.as_bytes())?,
            Ok(Cow::Borrowed(_)) | Err(_) => self.0.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_secret_is_masked_in_plain_and_json_form() {
        remember("pass-wörd\"17");
        remember("pass-wörd\"17-and-more");
        for (text, expected) in [
            ("vhost pass-wörd\"17 not found", "vhost [hidden] not found"),
            ("pass-wörd\"17-and-more", "[hidden]"),
            (r#"{"reason":"pass-wörd\"17"}"#, r#"{"reason":"[hidden]"}"#),
            ("nothing of it", "nothing of it"),
        ] {
            assert_eq!(masked(text), expected);
        }
        let mut written = Masked(Vec::new());
        written.write_all("a pass-wörd\"17 b\n".as_bytes()).unwrap();
        assert_eq!(written.0, b"a [hidden] b\n");
    }

    #[test]
    fn secret_remembered_again_outlives_rotated_secrets() {
        let mut known = KnownSecrets(VecDeque::new());
        for hour in 0..=KEPT_MAX {
            known.add(&format!("rotated-{hour:06}"));
            known.add("used-at-each-connection");
        }
        let forms: Vec<_> = known.0.iter().map(ExposeSecret::expose_secret).collect();
        assert_eq!(forms.len(), KEPT_MAX);
        assert!(forms.contains(&"used-at-each-connection") && !forms.contains(&"rotated-000000"));
    }

    #[test]
    fn short_text_is_not_masked() {
        remember("abc");
        remember("");
        assert_eq!(masked("abc"), "abc");
    }
}
