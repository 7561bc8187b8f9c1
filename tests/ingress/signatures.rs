//! Requests that their client signs, in the format of Standard Webhooks.

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use reqwest::RequestBuilder;
use sha2::Sha256;
use testkit::{Rig, admin::Admin, event, poll, program::Program, rig::CLIENT_TOKEN};

use super::{Caller, INGRESS, reply};

/// Secrets of a client.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW_SECRET: &str = "whsec_cmlnLXNlY3JldC10aGF0LWNhbWUtYWZ0ZXItaXQ=";

/// The settings of an ingress with one client that signs.
fn signing<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let own = [INGRESS[0], ("ingress.drain", "1ms"), ("ingress.clients.service.signing_secret", SECRET)];
    [&own[..], more].concat()
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

/// The signature of a request.
fn signature(secret: &str, id: &str, seconds: i64, body: &str) -> String {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&key).unwrap();
    let signed = mac.chain_update(format!("{id}.{seconds}.{body}")).finalize().into_bytes();
    format!("v1,{}", STANDARD.encode(signed))
}

/// A request with this signature.
fn request(caller: &Caller, id: &str, seconds: i64, signature: &str, body: &str) -> RequestBuilder {
    let post = caller.http.post(caller.url("/v1/sessions")).header("content-type", "application/json");
    let post = post.header("webhook-id", id).header("webhook-timestamp", seconds);
    post.header("webhook-signature", signature).body(body.to_owned())
}

/// A request that is signed now.
fn signed(caller: &Caller, secret: &str, id: &str, body: &str) -> RequestBuilder {
    let seconds = now();
    request(caller, id, seconds, &signature(secret, id, seconds, body), body)
}

async fn callers(worker: &Program) -> (Caller, Admin) {
    (Caller::of(worker).await, Admin::of(worker).await)
}

#[tokio::test]
async fn signed_request_is_accepted_once_and_its_repeat_is_replayed() {
    let rig = Rig::new().await;
    let worker = rig.start(&signing(&[("ingress.require_idempotency_key", "true")])).await;
    let (caller, _) = callers(&worker).await;
    let body = event(1).to_string();
    let first = reply(signed(&caller, SECRET, "run-1", &body)).await;
    assert_eq!(first.status, 202, "{first:?}");
    let again = reply(signed(&caller, SECRET, "run-1", &body)).await;
    assert_eq!((again.status, &again.json()["replayed"]), (202, &serde_json::json!(true)));
    assert_eq!(again.json()["eventId"], first.json()["eventId"]);
    let same = signed(&caller, SECRET, "run-1", &body).header("idempotency-key", "\"run-1\"");
    assert_eq!(reply(same).await.json()["replayed"], true);
    // The key is not signed: whoever sees the request could send it again under another one.
    let renamed = reply(signed(&caller, SECRET, "run-1", &body).header("idempotency-key", "run-2")).await;
    assert_eq!((renamed.status, renamed.problem(&rig).as_str()), (400, "malformed"));
    // Nor are the attributes of a CloudEvent in headers.
    let attributes = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/flow"),
        ("ce-type", "video.session.start.v1"),
    ];
    let event_in_headers =
        attributes.iter().fold(signed(&caller, SECRET, "run-3", &body), |request, (name, value)| {
            request.header(*name, *value)
        });
    let event_in_headers = reply(event_in_headers).await;
    assert_eq!((event_in_headers.status, event_in_headers.problem(&rig).as_str()), (400, "malformed"));
    let other = reply(signed(&caller, SECRET, "run-1", &event(2).to_string())).await;
    assert_eq!((other.status, other.problem(&rig).as_str()), (422, "key-reused"));
    rig.until_experts_have(1).await;
    assert!(!worker.output.text().contains(&SECRET[6..]));
    worker.stop().await;
    assert_eq!(rig.sandbox.counts().joseencrypt, 1);
}

#[tokio::test]
async fn wrong_signature_or_time_is_refused_and_counted_until_the_address_is_throttled() {
    let rig = Rig::new().await;
    let worker = rig.start(&signing(&[("ingress.clients.flows.token", CLIENT_TOKEN)])).await;
    let (caller, admin) = callers(&worker).await;
    let (body, seconds) = (event(1).to_string(), now());
    let right = signature(SECRET, "run-1", seconds, &body);
    let old = seconds - 310;
    let at = |seconds| request(&caller, "run-1", seconds, &signature(SECRET, "run-1", seconds, &body), &body);
    for refused in [
        request(&caller, "run-1", seconds, &right, &event(2).to_string()),
        request(&caller, "run-2", seconds, &right, &body),
        request(&caller, "run-1", seconds - 1, &right, &body),
        signed(&caller, NEW_SECRET, "run-1", &body),
        request(&caller, "run-1", seconds, &right.replace("v1,", "v2,"), &body),
        at(old),
        at(seconds + 310),
        at(seconds).header("webhook-id", "run-1"),
        at(seconds).header("webhook-signature", &right),
        // A wrong token is not made up for by a signature.
        at(seconds).bearer_auth("icw_not-the-token-of-a-client"),
    ] {
        let answer = reply(refused).await;
        assert_eq!((answer.status, answer.problem(&rig).as_str()), (401, "unauthenticated"), "{answer:?}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    for (reason, count) in [("signature", "5"), ("timestamp", "2"), ("malformed", "2"), ("unknown", "1")] {
        admin.until(&format!(r#"ingress_auth_failures_total{{reason="{reason}"}}"#), count).await;
    }
    // Ten at once from one address. Then no body is read from there, so that unsigned ones cannot cost much; tokens are still accepted.
    let throttled = reply(at(now())).await;
    assert_eq!((throttled.status, throttled.problem(&rig).as_str()), (429, "rate-limited"));
    admin.until(r#"ingress_auth_failures_total{reason="throttled"}"#, "1").await;
    let with_token = caller.start("run-3", &event(3)).await;
    assert_eq!(with_token.status, 202);
    rig.until_experts_have(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn secret_file_rotates_without_a_restart() {
    let rig = Rig::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, SECRET).unwrap();
    let settings = [INGRESS[0], ("ingress.clients.service.signing_secret_file", file.to_str().unwrap())];
    let worker = rig.start(&settings).await;
    let (caller, _) = callers(&worker).await;
    let body = event(1).to_string();
    let status = async |secret: &str| reply(signed(&caller, secret, "run-1", &body)).await.status;
    assert_eq!((status(SECRET).await, status(NEW_SECRET).await), (202, 401));
    for (text, old, new) in [
        (format!("{SECRET}\n{NEW_SECRET}\n"), 202, 202),
        (NEW_SECRET.to_owned(), 401, 202),
        (String::new(), 401, 401),
    ] {
        std::fs::write(&file, &text).unwrap();
        // A file that was changed a moment ago may be half written.
        let opened = std::fs::File::options().write(true).open(&file).unwrap();
        opened.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!((status(SECRET).await, status(NEW_SECRET).await), (old, new), "{text}");
    }
    rig.until_experts_have(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn signing_client_without_the_scope_or_from_another_address_is_forbidden() {
    for setting in [
        ("ingress.clients.service.scopes", "[]"),
        ("ingress.clients.service.allowed_addresses", "192.0.2.0/24"),
    ] {
        let rig = Rig::new().await;
        let worker = rig.start(&signing(&[setting])).await;
        let (caller, _) = callers(&worker).await;
        let answer = reply(signed(&caller, SECRET, "run-1", &event(1).to_string())).await;
        assert_eq!((answer.status, answer.problem(&rig).as_str()), (403, "forbidden"), "{setting:?}");
        worker.stop().await;
    }
}

/// Bodies without a valid signature take no place of clients with tokens.
#[tokio::test]
async fn slow_unverified_bodies_leave_the_places_of_clients_with_tokens_free() {
    let rig = Rig::new().await;
    let places = [("ingress.in_flight_max", "4"), ("ingress.clients.flows.token", CLIENT_TOKEN)];
    let worker = rig.start(&signing(&places)).await;
    let (caller, _) = callers(&worker).await;
    let (body, seconds) = (event(1).to_string(), now());
    let right = signature(SECRET, "run-1", seconds, &body);
    let head = format!(
        "POST /v1/sessions HTTP/1.1\r\nHost: ingress\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\
         webhook-id: run-1\r\nwebhook-timestamp: {seconds}\r\nwebhook-signature: {right}\r\n\r\n"
    );
    let slow: Vec<_> = futures_util::future::join_all((0..3).map(|_| caller.connect(head.as_bytes()))).await;
    // A quarter of the places, at least one, is for unverified bodies.
    poll("the place to be taken", async || {
        let full = reply(request(&caller, "run-1", seconds, &right, &body)).await;
        (full.status == 503).then_some(())
    })
    .await;
    assert_eq!(caller.start("run-2", &event(2)).await.status, 202);
    drop(slow);
    poll("a free place", async || {
        let accepted = reply(request(&caller, "run-1", seconds, &right, &body)).await;
        (accepted.status == 202).then_some(())
    })
    .await;
    rig.until_experts_have(2).await;
    worker.stop().await;
}

#[tokio::test]
async fn command_makes_a_signing_secret_that_the_settings_accept() {
    let rig = Rig::new().await;
    let text = rig.command(&["token", "--signing"], &[]).await.stdout;
    let secret = text.trim();
    assert!(secret.starts_with("whsec_") && secret.len() == 50, "{text}");
    let made = rig.command(&["token", "--signing", "--json"], &[]).await.json();
    assert!(made["signing_secret"].as_str().unwrap().starts_with("whsec_"), "{made}");
    let worker = rig.start(&[INGRESS[0], ("ingress.clients.service.signing_secret", secret)]).await;
    let (caller, _) = callers(&worker).await;
    assert_eq!(reply(signed(&caller, secret, "run-1", &event(1).to_string())).await.status, 202);
    rig.until_experts_have(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn clients_with_one_signing_secret_do_not_start() {
    let rig = Rig::new().await;
    let other = ("ingress.clients.other.signing_secret", SECRET);
    let finished = rig.command(&["run"], &signing(&[other])).await;
    assert_eq!(finished.status, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("expected different signing secrets"), "{finished:?}");
    assert!(!finished.stderr.contains(&SECRET[6..]));
}

#[tokio::test]
async fn emit_signs_with_the_secret_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new().await;
    let worker = rig.start(&signing(&[])).await;
    let url = Caller::of(&worker).await.url("");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(&path, text).unwrap();
        path
    };
    let (secret, body) = (file("secret", SECRET), file("event.json", &event(1).to_string()));
    let emit = async |id: &str, secret: &str| {
        let arguments = ["emit", "--file", &body, "--http", &url, "--message-id", id, "--json"];
        rig.command(&[&arguments[..], &["--signing-secret-file", secret]].concat(), &[]).await
    };
    let first = emit("run-1", &secret).await;
    assert_eq!(first.status, Some(0), "{first:?}");
    assert_eq!(emit("run-1", &secret).await.json()["replayed"], true);
    let refused = emit("run-2", &file("other", NEW_SECRET)).await;
    assert!(refused.status == Some(1) && refused.stderr.contains("status 401"), "{refused:?}");
    for (id, secret, expected) in [
        ("run-3", file("token", "one-word"), "--signing-secret-file: expected whsec_"),
        ("run.3", secret, "without a full stop"),
        ("run-3", "/nowhere".to_owned(), "--signing-secret-file"),
    ] {
        let wrong = emit(id, &secret).await;
        assert!(wrong.status == Some(2) && wrong.stderr.contains(expected), "{expected}: {wrong:?}");
    }
    rig.until_experts_have(1).await;
    worker.stop().await;
}
