//! `emit --http`: sends a start event to the ingress, as a flow does.

use std::{env, path::Path, time::Duration};

use jiff::Timestamp;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::{CommandError, say, say_json};
use crate::{
    config::Loaded,
    endpoint::{http, url::is_local},
    ingress::client_signatures::{SIGNING_SECRET, is_signing_secret, signed_headers},
    masking, tls,
    upstream::TokenSource,
};

/// The variable with the token.
const VARIABLE: &str = "ICW_CLIENT_TOKEN";
/// Time limit for the response; the ingress responds within 8 s.
const ANSWER: Duration = Duration::from_secs(20);
/// Maximum size of a response, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Credential that identifies the client to the ingress.
#[derive(Debug)]
pub(super) enum ClientProof {
    /// A token, sent with the request.
    Token(SecretString),
    /// A secret with which the request is signed.
    Secret(SecretString),
}

impl ClientProof {
    /// The token in `file`, or in the variable.
    ///
    /// # Errors
    /// The file cannot be read, or the token is not one word.
    pub(super) fn token(file: Option<&Path>) -> Result<Self, CommandError> {
        let token = match file {
            Some(path) => read("--token-file", path)?,
            None => env::var(VARIABLE).unwrap_or_default().into(),
        };
        let text = token.expose_secret();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(CommandError::Usage(format!(
                "--http: expected the client's token in --token-file or in {VARIABLE}, as one word of printable characters"
            )));
        }
        masking::remember(text);
        Ok(Self::Token(token))
    }

    /// The signing secret in `file`.
    ///
    /// # Errors
    /// The file cannot be read, or has something else.
    pub(super) fn secret(file: &Path) -> Result<Self, CommandError> {
        let secret = read("--signing-secret-file", file)?;
        if !is_signing_secret(secret.expose_secret()) {
            return Err(CommandError::Usage(format!("--signing-secret-file: {SIGNING_SECRET}")));
        }
        masking::remember(secret.expose_secret());
        Ok(Self::Secret(secret))
    }

    /// The headers of a request with this `key` and `body`.
    ///
    /// # Errors
    /// The key cannot be signed.
    fn headers(&self, key: &str, body: &[u8]) -> Result<Vec<(&'static str, String)>, CommandError> {
        match self {
            Self::Token(token) => Ok(vec![
                ("authorization", format!("Bearer {}", token.expose_secret())),
                ("idempotency-key", key.to_owned()),
            ]),
            Self::Secret(secret) => signed_headers(secret, key, Timestamp::now(), body).ok_or_else(|| {
                CommandError::Usage(
                    "--message-id: a signed request expects an id of visible ASCII characters without a full stop".to_owned(),
                )
            }),
        }
    }
}

fn read(flag: &str, path: &Path) -> Result<SecretString, CommandError> {
    let read = TokenSource::file(path.to_owned()).current();
    read.map_err(|error| CommandError::Usage(format!("{flag}: {error}")))
}

/// Sends `body` with the idempotency key `key` and the `proof` of a client to the ingress at `url`, and prints the response. `repeat`
/// says how to send it again if the result is unknown.
pub(super) async fn run(
    loaded: &Loaded,
    url: &Url,
    proof: &ClientProof,
    key: &str,
    repeat: &str,
    body: Vec<u8>,
    json: bool,
) -> Result<(), CommandError> {
    let answer = send(loaded, url, proof, key, repeat, body).await?;
    if json {
        return say_json(&answer);
    }
    let text = |name: &str| answer[name].as_str().unwrap_or("(not readable)").to_owned();
    let replayed = if answer["replayed"] == true { " before" } else { "" };
    say(&format!("accepted{replayed}: event {} of session {}", text("eventId"), text("sessionId")))
}

/// Sends `body` with the idempotency key `key` and the `proof` of a client to the ingress at `url`. `repeat` says how to send it again if
/// the result is unknown. Returns the response 202.
pub(super) async fn send(
    loaded: &Loaded,
    url: &Url,
    proof: &ClientProof,
    key: &str,
    repeat: &str,
    body: Vec<u8>,
) -> Result<Value, CommandError> {
    let failed = |problem: String| CommandError::Failed(format!("the event was not accepted: {problem}"));
    if !(url.scheme() == "https" || (url.scheme() == "http" && is_local(url))) {
        return Err(CommandError::Usage(
            "--http: expected https:// (http:// is allowed only for loopback and cluster-local hosts)"
                .to_owned(),
        ));
    }
    if !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(CommandError::Usage(
            "--message-id: --http expects printable ASCII without spaces".to_owned(),
        ));
    }
    let headers = sensitive(proof.headers(key, &body)?)?;
    let endpoint = url
        .join("/v1/sessions")
        .map_err(|_| CommandError::Usage("--http: expected a URL such as https://host/".to_owned()))?;
    let tls =
        tls::https(loaded.config.tls.ca_file.as_deref()).map_err(|error| failed(format!("TLS: {error}")))?;
    let client = http::client(tls).timeout(ANSWER).no_proxy().build();
    let client = client.map_err(|error| failed(error.without_url().to_string()))?;
    let request =
        client.post(endpoint).header("content-type", "application/json").headers(headers).body(body);
    let unknown = |problem: String| {
        let what = "the event may or may not have been accepted";
        CommandError::Failed(format!("{problem}: {what}; hint: {repeat}"))
    };
    let mut response = request.send().await.map_err(|error| {
        let is_connect = error.is_connect();
        let problem = error.without_url().to_string();
        if is_connect { failed(problem) } else { unknown(format!("no response from the ingress: {problem}")) }
    })?;
    let status = response.status().as_u16();
    let mut answer = Vec::new();
    // The status alone says whether the event was accepted.
    while let Ok(Some(chunk)) = response.chunk().await {
        if answer.len() + chunk.len() > ANSWER_BYTES_MAX {
            break;
        }
        answer.extend_from_slice(&chunk);
    }
    let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
    let text = |name: &str| answer[name].as_str().unwrap_or("(not readable)").to_owned();
    if status != 202 {
        let problem = format!("status {status}, {}: {}", text("type"), text("detail"));
        return Err(match status {
            // A proxy in front of the ingress has statuses of its own.
            408 | 500.. => unknown(problem),
            409 | 429 => failed(format!("{problem}; hint: {repeat}")),
            _ => failed(problem),
        });
    }
    Ok(answer)
}

/// The headers, which no `Debug` shows.
fn sensitive(headers: Vec<(&'static str, String)>) -> Result<HeaderMap, CommandError> {
    let value = |text: String| -> Result<_, CommandError> {
        let mut value = HeaderValue::try_from(text).map_err(|_| {
            CommandError::Usage("--http: expected a token and a message id of ASCII".to_owned())
        })?;
        value.set_sensitive(true);
        Ok(value)
    };
    headers.into_iter().map(|(name, text)| Ok((HeaderName::from_static(name), value(text)?))).collect()
}
