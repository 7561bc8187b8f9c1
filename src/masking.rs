//! The last net under this program's secrets. What a library, a broker or a proxy says may repeat what it was sent: a text that
//! others made goes through [`masked`] before it reaches a log, an error or a header. Whoever reads a secret tells it to
//! [`remember`].
//!
//! There is one list for the whole process: a text can repeat any of them, whatever it is about.

use std::{
    borrow::Cow,
    collections::VecDeque,
    io::{self, Write},
    sync::{PoisonError, RwLock},
};

use secrecy::{ExposeSecret, SecretString};

/// What stands in a secret's place.
const HIDDEN: &str = "[hidden]";
/// Shorter ones protect nothing, and would make texts unreadable.
const LENGTH_MIN: usize = 4;
/// Most forms of secrets that are kept; those that were told longest ago go first. A worker has five secrets, and those that rotate do
/// so every hour at most: this is more than a month of them, in which the others must stay known.
const KEPT_MAX: usize = 2048;

static KNOWN: RwLock<KnownSecrets> = RwLock::new(KnownSecrets(VecDeque::new()));

/// Forms of secrets, those told last at the end.
struct KnownSecrets(VecDeque<SecretString>);

/// Hides `secret` from here on: as it is, and as JSON writes it.
pub(crate) fn remember(secret: &str) {
    let json = serde_json::Value::from(secret).to_string();
    let json = json.trim_matches('"');
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    for form in [secret, json] {
        known.take_in(form);
    }
}

impl KnownSecrets {
    fn take_in(&mut self, form: &str) {
        if form.len() < LENGTH_MIN {
            return;
        }
        self.0.retain(|one| one.expose_secret() != form);
        self.0.push_back(form.into());
        let surplus = self.0.len().saturating_sub(KEPT_MAX);
        self.0.drain(..surplus);
    }
}

/// `text` without any secret of ours.
#[must_use]
pub(crate) fn masked(text: &str) -> Cow<'_, str> {
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    let mut found: Vec<&str> =
        known.0.iter().map(ExposeSecret::expose_secret).filter(|one| text.contains(*one)).collect();
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    // One may be a part of another.
    found.sort_unstable_by_key(|one| std::cmp::Reverse(one.len()));
    Cow::Owned(found.into_iter().fold(text.to_owned(), |text, one| text.replace(one, HIDDEN)))
}

/// Writes what it is given, masked. Each write is to be a whole text, as the log's are.
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
    fn remembered_secret_is_masked_in_all_its_forms() {
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
    fn secret_that_is_told_again_outlives_those_that_rotate() {
        let mut known = KnownSecrets(VecDeque::new());
        for hour in 0..=KEPT_MAX {
            known.take_in(&format!("rotated-{hour:06}"));
            known.take_in("told-at-each-connection");
        }
        let forms: Vec<_> = known.0.iter().map(ExposeSecret::expose_secret).collect();
        assert_eq!(forms.len(), KEPT_MAX);
        assert!(forms.contains(&"told-at-each-connection") && !forms.contains(&"rotated-000000"));
    }

    #[test]
    fn short_text_is_not_taken_for_a_secret() {
        remember("abc");
        remember("");
        assert_eq!(masked("abc"), "abc");
    }
}
