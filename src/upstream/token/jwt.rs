//! Tokens that this program signs itself: JWTs with a shared secret (HS256; RFC 7515 and RFC 7519), as Webex Connect takes them ("Using
//! JWT for API authentication" in its developer reference). The secret is in base64; a JWT is valid for an hour at most.

use std::sync::{Mutex, PoisonError};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL},
};
use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use super::{TokenError, TokenSource};
use crate::{clock::Clock, masking};

/// Time from signing a JWT until it expires.
const LIFETIME: SignedDuration = SignedDuration::from_mins(10);
/// Age at which a JWT is replaced, so that every call has one that is valid for longer than the call.
const AGE_MAX: SignedDuration = SignedDuration::from_mins(5);
/// The time of signing is this much earlier than now, because the clock of Webex Connect may be behind.
const BACKDATED: SignedDuration = SignedDuration::from_secs(30);

/// Signs JWTs for one issuer. The secret may rotate.
#[derive(Debug)]
pub struct JwtSigner {
    issuer: String,
    secret: Box<TokenSource>,
    clock: Clock,
    last: Mutex<Option<SignedJwt>>,
}

/// The JWT in use.
#[derive(Debug)]
struct SignedJwt {
    token: SecretString,
    secret: SecretString,
    at: Timestamp,
    /// The one before, which may still be valid.
    before: Option<SecretString>,
}

impl JwtSigner {
    pub(super) const fn new(issuer: String, secret: Box<TokenSource>, clock: Clock) -> Self {
        Self { issuer, secret, clock, last: Mutex::new(None) }
    }

    /// True if the file now has another secret than at the last call.
    pub(super) fn is_replaced(&self) -> bool {
        self.secret.is_replaced()
    }

    /// The current JWT: the last one, or a new one if it is old or the secret has changed.
    pub(super) fn current(&self) -> Result<SecretString, TokenError> {
        let secret = self.secret.current()?;
        let now = self.clock.now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref().filter(|last| last.is_usable(&secret, now)) {
            return Ok(last.token.clone());
        }
        let token = sign(&self.issuer, &secret, now)?;
        masking::remember(token.expose_secret());
        let replaced = last.take();
        // Many JWTs would push the other secrets out of the list.
        if let Some(expired) = replaced.as_ref().and_then(|last| last.before.as_ref()) {
            masking::forget(expired.expose_secret());
        }
        let before = replaced.map(|last| last.token);
        *last = Some(SignedJwt { token: token.clone(), secret, at: now, before });
        Ok(token)
    }
}

impl SignedJwt {
    fn is_usable(&self, secret: &SecretString, now: Timestamp) -> bool {
        let age = now.duration_since(self.at);
        let is_young = !age.is_negative() && age < AGE_MAX;
        is_young && self.secret.expose_secret() == secret.expose_secret()
    }
}

/// A JWT of `issuer`, signed at `now`.
fn sign(issuer: &str, secret: &SecretString, now: Timestamp) -> Result<SecretString, TokenError> {
    let key = BASE64.decode(secret.expose_secret()).ok().filter(|key| !key.is_empty());
    let mut mac =
        key.and_then(|key| Hmac::<Sha256>::new_from_slice(&key).ok()).ok_or(TokenError::NotBase64)?;
    let (now, issuer) = (now.as_second(), serde_json::Value::from(issuer));
    let (from, until) = (now - BACKDATED.as_secs(), now + LIFETIME.as_secs());
    let claims = format!(r#"{{"iss":{issuer},"iat":{from},"exp":{until}}}"#);
    let signed =
        format!("{}.{}", BASE64URL.encode(r#"{"alg":"HS256","typ":"JWT"}"#), BASE64URL.encode(claims));
    mac.update(signed.as_bytes());
    let signature = BASE64URL.encode(mac.finalize().into_bytes());
    Ok(format!("{signed}.{signature}").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TimeOfDay;
    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    };

    #[derive(Clone, Debug, Default)]
    struct SetTime(Arc<AtomicI64>);

    impl TimeOfDay for SetTime {
        fn now(&self) -> Timestamp {
            Timestamp::from_second(self.0.load(Ordering::Relaxed)).unwrap()
        }

        fn steady(&self) -> Timestamp {
            self.now()
        }
    }

    fn secret(text: &str) -> SecretString {
        BASE64.encode(text).into()
    }

    /// Made by Python: hmac and base64 of the standard library, with the same header and claims.
    #[test]
    fn jwt_equals_that_of_another_implementation() {
        let now = Timestamp::from_second(1_780_000_030).unwrap();
        let jwt = sign("service-1", &secret("0123456789abcdef"), now).unwrap();
        assert_eq!(jwt.expose_secret(), REFERENCE);
    }

    #[test]
    fn jwt_is_renewed_in_time_and_after_a_change_of_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let write = |text: &str| std::fs::write(&path, secret(text).expose_secret()).unwrap();
        write("one");
        let time = SetTime::default();
        let signer =
            |source| JwtSigner::new("service-1".to_owned(), Box::new(source), Clock::of(time.clone()));
        let signer = signer(TokenSource::file(path.clone()));
        let at = |seconds| {
            time.0.store(seconds, Ordering::Relaxed);
            signer.current().unwrap().expose_secret().to_owned()
        };
        let first = at(1000);
        assert_eq!(at(1299), first, "young enough");
        let second = at(1300);
        assert_ne!(second, first);
        assert_ne!(at(1299), second, "the clock was set back");
        assert!(!signer.is_replaced());
        write("two");
        assert!(signer.is_replaced());
    }

    #[test]
    fn secret_that_is_not_base64_is_an_error_without_its_text() {
        for text in ["not-base64", "YQ", ""] {
            let error = sign("service-1", &text.into(), Timestamp::UNIX_EPOCH).unwrap_err().to_string();
            assert!(error.contains("base64") && (text.is_empty() || !error.contains(text)), "{error}");
        }
    }

    /// A minute after the next but one was signed, the first has expired.
    #[test]
    fn used_jwts_are_masked_until_they_expire() {
        let time = SetTime::default();
        let source = TokenSource::Value(secret("masked"));
        let signer = JwtSigner::new("service-1".to_owned(), Box::new(source), Clock::of(time.clone()));
        let at = |seconds| {
            time.0.store(seconds, Ordering::Relaxed);
            signer.current().unwrap().expose_secret().to_owned()
        };
        let (first, second, third) = (at(0), at(300), at(600));
        let is_masked = |jwt: &str| masking::masked(jwt) != jwt;
        assert_eq!([first, second, third].map(|jwt| is_masked(&jwt)), [false, true, true]);
    }

    const REFERENCE: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJzZXJ2aWNlLTEiLCJpYXQiOjE3ODAwMDAwMDAsImV4cCI6MTc4MDAwMDYzMH0.wUrvpPwLZhShxz5JM4vvhnlSO9cpNWjPXV_a0AsiJuA";
}
