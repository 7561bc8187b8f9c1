//! Service keys and JWTs.

use axum::http::{HeaderMap, header};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL},
};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::limits::{CREDENTIALS_MAX, JWT_LIFETIME_S, JWT_SKEW_S};
use crate::jose::{Signature, mac};

/// Accepted credentials of one service. Only the first two keys and the first two secrets are valid, as in Webex Connect.
#[derive(Clone, Debug, Default)]
pub struct ServiceCredentials {
    /// Values of the header `key`.
    pub keys: Vec<SecretString>,
    /// `iss` of a JWT.
    pub service_id: String,
    /// Secrets of JWTs, in base64. Empty: no JWT is accepted.
    pub jwt_secrets: Vec<SecretString>,
}

/// The credential of an accepted request, by its position in [`ServiceCredentials`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum UsedCredential {
    /// The key at this index.
    Key(usize),
    /// A JWT with the secret at this index.
    Jwt(usize),
}

/// Refused credentials.
#[derive(Clone, Copy)]
pub(super) enum CredentialProblem {
    Missing,
    Wrong,
}

#[derive(Deserialize)]
struct ServiceJwtHeader {
    alg: String,
}

#[derive(Deserialize)]
struct ServiceJwtClaims {
    iss: String,
    iat: i64,
    exp: Option<i64>,
}

impl ServiceCredentials {
    /// The credential of a request. A JWT is used if both are sent, even if it is wrong.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<UsedCredential, CredentialProblem> {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = bearer.and_then(|value| value.split_once(' '));
        if let Some((_, token)) = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) {
            return self.check_jwt(token.trim()).map(UsedCredential::Jwt).ok_or(CredentialProblem::Wrong);
        }
        let key = headers.get("key").ok_or(CredentialProblem::Missing)?.as_bytes();
        let known = self.keys.iter().take(CREDENTIALS_MAX);
        let found = known.map(ExposeSecret::expose_secret).position(|known| known.as_bytes() == key);
        found.map(UsedCredential::Key).ok_or(CredentialProblem::Wrong)
    }

    /// Index of the secret with which `token` is valid now.
    fn check_jwt(&self, token: &str) -> Option<usize> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let signature = BASE64URL.decode(signature).ok()?;
        let claims: ServiceJwtClaims = part(claims)?;
        let now = Timestamp::now().as_second();
        let in_time = claims.iat <= now + JWT_SKEW_S
            && now < claims.iat.saturating_add(JWT_LIFETIME_S)
            && claims.exp.is_none_or(|exp| now < exp);
        if part::<ServiceJwtHeader>(header)?.alg != "HS256" || claims.iss != self.service_id || !in_time {
            return None;
        }
        self.jwt_secrets.iter().take(CREDENTIALS_MAX).position(|secret| {
            let key = BASE64.decode(secret.expose_secret()).unwrap_or_default();
            !key.is_empty()
                && mac(Signature::Hs256, &key, &[signed.as_bytes()]).is_ok_and(|mac| mac == signature)
        })
    }
}

fn part<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&BASE64URL.decode(text).ok()?).ok()
}
