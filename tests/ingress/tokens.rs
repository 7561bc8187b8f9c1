//! Tokens, scopes, addresses and certificates.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use testkit::{
    Rig,
    admin::Admin,
    event, poll,
    rig::{CLIENT_TOKEN, NEW_CLIENT_TOKEN},
};

use super::{Caller, INGRESS, reply, with};

async fn status(caller: &Caller, token: &str, n: usize) -> u16 {
    let request = caller.http.post(caller.url("/v1/sessions")).bearer_auth(token);
    reply(request.header("content-type", "application/json").body(event(n).to_string())).await.status
}

#[tokio::test]
async fn request_without_a_valid_token_is_refused_and_counted() {
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[])).await;
    let (caller, admin) = (Caller::of(&worker).await, Admin::of(&worker).await);
    let post = || caller.http.post(caller.url("/v1/sessions")).header("content-type", "application/json");
    let body = event(1).to_string();
    for request in [
        post(),
        post().header("authorization", CLIENT_TOKEN),
        post().basic_auth("flows", Some(CLIENT_TOKEN)),
        post().bearer_auth(&CLIENT_TOKEN[..30]),
        post().bearer_auth(NEW_CLIENT_TOKEN),
        post().bearer_auth(CLIENT_TOKEN).bearer_auth(CLIENT_TOKEN),
    ] {
        let answer = reply(request.body(body.clone())).await;
        assert_eq!((answer.status, answer.problem(&rig).as_str()), (401, "unauthenticated"), "{answer:?}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        assert_eq!(answer.header("connection"), "close");
    }
    let series = admin.series().await;
    let counted =
        |reason: &str| series[&format!(r#"ingress_auth_failures_total{{reason="{reason}"}}"#)].clone();
    assert_eq!(
        (counted("missing"), counted("malformed"), counted("unknown")),
        ("2".into(), "2".into(), "2".into())
    );
    // Ten at once from one address; then the others are told to wait. A valid token is still accepted.
    let mut throttled = None;
    for _ in 0..6 {
        throttled = Some(reply(post().bearer_auth(NEW_CLIENT_TOKEN).body(body.clone())).await);
    }
    let throttled = throttled.unwrap();
    assert_eq!((throttled.status, throttled.problem(&rig).as_str()), (429, "rate-limited"));
    assert!(throttled.header("retry-after").parse::<u64>().unwrap() <= 10);
    assert_eq!(status(&caller, CLIENT_TOKEN, 1).await, 202);
    rig.until_experts_have(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn client_without_the_scope_or_from_another_address_is_forbidden() {
    for setting in
        [("ingress.clients.flows.scopes", "[]"), ("ingress.clients.flows.allowed_addresses", "192.0.2.0/24")]
    {
        let rig = Rig::new().await;
        let worker = rig.start(&with(&[setting])).await;
        let caller = Caller::of(&worker).await;
        let answer = caller.start("run-1", &event(1)).await;
        assert_eq!((answer.status, answer.problem(&rig).as_str()), (403, "forbidden"), "{setting:?}");
        // Nobody but a trusted proxy may say where a request comes from.
        let request = caller.post().header("x-forwarded-for", "192.0.2.7").body(event(1).to_string());
        assert_eq!(reply(request).await.status, 403);
        worker.stop().await;
    }
    let rig = Rig::new().await;
    let settings = with(&[
        ("ingress.clients.flows.allowed_addresses", "192.0.2.0/24"),
        ("ingress.trusted_proxies", "127.0.0.0/8"),
    ]);
    let worker = rig.start(&settings).await;
    let caller = Caller::of(&worker).await;
    let request = caller.post().header("x-forwarded-for", "192.0.2.7").body(event(1).to_string());
    assert_eq!(reply(request).await.status, 202);
    rig.until_experts_have(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn token_file_rotates_without_a_restart() {
    let rig = Rig::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let settings = [INGRESS[0], ("ingress.clients.flows.token_file", file.to_str().unwrap())];
    std::fs::write(&file, format!("{CLIENT_TOKEN}\n")).unwrap();
    let worker = rig.start(&settings).await;
    let caller = Caller::of(&worker).await;
    assert_eq!(status(&caller, CLIENT_TOKEN, 1).await, 202);
    assert_eq!(status(&caller, NEW_CLIENT_TOKEN, 1).await, 401);
    std::fs::write(&file, format!("{CLIENT_TOKEN}\n{NEW_CLIENT_TOKEN}\n")).unwrap();
    let accepted = async |token, expected| {
        poll("the new file", async || (status(&caller, token, 1).await == expected).then_some(())).await;
    };
    accepted(NEW_CLIENT_TOKEN, 202).await;
    assert_eq!(status(&caller, CLIENT_TOKEN, 1).await, 202);
    std::fs::write(&file, format!("{NEW_CLIENT_TOKEN}\n")).unwrap();
    poll("the old token's end", async || {
        let refused = status(&caller, CLIENT_TOKEN, 1).await;
        [401, 429].contains(&refused).then_some(())
    })
    .await;
    rig.until_experts_have(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn worker_with_an_empty_token_file_starts_and_refuses_its_client() {
    let rig = Rig::new().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let worker = rig.start(&with(&[("ingress.clients.other.token_file", path)])).await;
    let caller = Caller::of(&worker).await;
    let warnings =
        worker.output.logged("a client's token file has no token; tokens from this file are not accepted");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(status(&caller, NEW_CLIENT_TOKEN, 1).await, 401);
    assert_eq!(status(&caller, CLIENT_TOKEN, 1).await, 202);
    rig.until_experts_have(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn command_makes_a_token_whose_digest_the_settings_can_hold() {
    let rig = Rig::new().await;
    let made = rig.command(&["token", "--json"], &[]).await;
    assert_eq!(made.status, Some(0), "{made:?}");
    let made = made.json();
    let (token, digest) = (made["token"].as_str().unwrap(), made["sha256"].as_str().unwrap());
    assert!(token.starts_with("icw_") && token.len() == 47, "{token}");
    let worker = rig.start(&[INGRESS[0], ("ingress.clients.flows.token_sha256", digest)]).await;
    let caller = Caller::of(&worker).await;
    assert_eq!((status(&caller, token, 1).await, status(&caller, digest, 1).await), (202, 401));
    rig.until_experts_have(1).await;
    assert!(!worker.output.text().contains(token));
    worker.stop().await;
    let text = rig.command(&["token"], &[]).await.stdout;
    assert!(text.starts_with("token   icw_") && text.contains("\nsha256  "), "{text}");
}

fn write_certificate(folder: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    made.cert.pem()
}

fn https(certificate: &str) -> reqwest::Client {
    let certificate = reqwest::Certificate::from_pem(certificate.as_bytes()).unwrap();
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only([certificate]);
    builder.build().unwrap()
}

#[tokio::test]
async fn certificate_is_served_and_rotates_without_a_restart() {
    // Its end comes after the rig's, which reads the settings again.
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new().await;
    let first = write_certificate(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (path("cert.pem"), path("key.pem"));
    let files = [("ingress.tls_cert_file", certificate.as_str()), ("ingress.tls_key_file", key.as_str())];
    let worker = rig.start(&with(&files)).await;
    let caller = Caller::of(&worker).await;
    let url = caller.url("/v1/sessions").replace("http://127.0.0.1", "https://localhost");
    let post = async |client: &reqwest::Client| {
        let request = client.post(&url).bearer_auth(CLIENT_TOKEN).header("content-type", "application/json");
        request.body(event(1).to_string()).send().await.map(|response| response.status().as_u16())
    };
    assert_eq!(post(&https(&first)).await.unwrap(), 202);
    let second = write_certificate(folder.path());
    poll("the new certificate", async || post(&https(&second)).await.ok()).await;
    assert!(post(&https(&first)).await.is_err());
    // Plain HTTP on the same port gets no answer.
    assert_eq!(
        caller.raw(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n").await.matches("HTTP/1.1").count(),
        0
    );
    rig.until_experts_have(1).await;
    worker.stop().await;
}

/// A CA, and a certificate with its key that it has signed for a client.
fn authority() -> (String, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let client =
        CertificateParams::new(vec!["flows.example".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    (ca.pem(), client.pem() + &key.serialize_pem())
}

/// A client's CA is as easy to replace as a token: without a restart.
#[tokio::test]
async fn client_without_a_certificate_of_the_ca_is_refused_and_the_ca_rotates() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new().await;
    let served = write_certificate(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key, ca) = (path("cert.pem"), path("key.pem"), path("ca.pem"));
    let files = [
        ("ingress.tls_cert_file", certificate.as_str()),
        ("ingress.tls_key_file", key.as_str()),
        ("ingress.client_ca_file", ca.as_str()),
    ];
    let [(first, first_client), (second, second_client)] = [authority(), authority()];
    std::fs::write(&ca, &first).unwrap();
    let worker = rig.start(&with(&files)).await;
    let caller = Caller::of(&worker).await;
    let url = caller.url("/v1/sessions").replace("http://127.0.0.1", "https://localhost");
    let post = async |identity: Option<&str>, token: &str| {
        let trusted = reqwest::Certificate::from_pem(served.as_bytes()).unwrap();
        let mut builder = reqwest::Client::builder().no_proxy().tls_certs_only([trusted]);
        if let Some(identity) = identity {
            builder = builder.identity(reqwest::Identity::from_pem(identity.as_bytes()).unwrap());
        }
        let request = builder.build().unwrap().post(&url).bearer_auth(token);
        let request = request.header("content-type", "application/json").body(event(1).to_string());
        request.send().await.map(|response| response.status().as_u16())
    };
    assert_eq!(post(Some(&first_client), CLIENT_TOKEN).await.unwrap(), 202);
    assert!(post(None, CLIENT_TOKEN).await.is_err());
    assert!(post(Some(&second_client), CLIENT_TOKEN).await.is_err());
    // A certificate is no token.
    assert_eq!(post(Some(&first_client), NEW_CLIENT_TOKEN).await.unwrap(), 401);
    std::fs::write(&ca, &second).unwrap();
    poll("the new CA", async || post(Some(&second_client), CLIENT_TOKEN).await.ok()).await;
    assert!(post(Some(&first_client), CLIENT_TOKEN).await.is_err());
    rig.until_experts_have(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn emit_sends_to_the_ingress_with_the_token_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[])).await;
    let url = Caller::of(&worker).await.url("");
    let file = folder.path().join("token").to_str().unwrap().to_owned();
    std::fs::write(&file, CLIENT_TOKEN).unwrap();
    let event = folder.path().join("event.json").to_str().unwrap().to_owned();
    std::fs::write(&event, testkit::event(1).to_string()).unwrap();
    let emit = async |more: &[&str]| {
        let arguments = ["emit", "--file", &event, "--http", &url, "--message-id", "run-1"];
        rig.command(&[&arguments, more].concat(), &[]).await
    };
    let accepted = emit(&["--token-file", &file]).await;
    assert_eq!(accepted.status, Some(0), "{accepted:?}");
    assert!(
        accepted.stdout.starts_with("accepted: event ") && accepted.stdout.contains("visit-1"),
        "{accepted:?}"
    );
    let again = emit(&["--token-file", &file, "--json"]).await;
    assert_eq!(again.json()["replayed"], true);
    let without = emit(&[]).await;
    assert_eq!(without.status, Some(2), "{without:?}");
    assert!(without.stderr.contains("ICW_CLIENT_TOKEN"), "{without:?}");
    std::fs::write(&file, NEW_CLIENT_TOKEN).unwrap();
    let refused = emit(&["--token-file", &file]).await;
    assert_eq!(refused.status, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("status 401, unauthenticated"), "{refused:?}");
    rig.until_experts_have(1).await;
    worker.stop().await;
}
