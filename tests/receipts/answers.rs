//! Each answer to a request with a receipt.

use testkit::{
    Rig,
    admin::Admin,
    program::Program,
    rig::{CLIENT_TOKEN, HUB_SECRET},
};

use super::{MESSAGE, PATH, body, receipt, request, signature, signature_512, until_declared};
use crate::{
    ingress::{Caller, reply},
    send::{SendRig, settings},
};

/// An ingress for receipts alone, without a client.
const RECEIPTS: [(&str, &str); 3] =
    [("ingress.listen", "127.0.0.1:0"), ("ingress.drain", "1ms"), ("receipts.secret", HUB_SECRET)];

/// The key of receipts.
const KEY: &str = "rig-key-of-receipts-that-must-not-be-shown";

async fn start(rig: &Rig, more: &[(&str, &str)]) -> (Program, Caller, Admin) {
    let worker = rig.start(&[&RECEIPTS[..], more].concat()).await;
    until_declared(&worker, 2).await;
    let (caller, admin) = (Caller::of(&worker).await, Admin::of(&worker).await);
    (worker, caller, admin)
}

#[tokio::test]
async fn path_has_head_and_post_of_one_organisation() {
    let rig = Rig::new().await;
    let (worker, caller, _) = start(&rig, &[]).await;
    let head = reply(caller.http.head(caller.url(PATH))).await;
    assert_eq!(head.status, 200, "without a signature, as Webex Connect sends it");
    for request in [caller.http.get(caller.url(PATH)), caller.http.put(caller.url(PATH)).body("{}")] {
        let answer = reply(request).await;
        assert_eq!((answer.status, answer.problem(&rig).as_str()), (405, "method"));
        assert_eq!(answer.header("allow"), "HEAD, POST");
    }
    let signed = signature(HUB_SECRET, "{}");
    for path in ["/v1/receipts/other", "/v1/receipts/", "/v1/receipts", "/v1/receipts/default/x"] {
        let post = caller.http.post(caller.url(path)).header("x-hub-signature", &signed).body("{}");
        for request in [caller.http.head(caller.url(path)), post] {
            assert_eq!(reply(request).await.status, 404, "{path}");
        }
    }
    worker.stop().await;
}

#[tokio::test]
async fn path_is_unknown_while_receipts_are_off() {
    let rig = Rig::new().await;
    let off = [RECEIPTS[0], RECEIPTS[1], ("ingress.clients.flows.token", CLIENT_TOKEN)];
    let worker = rig.start(&off).await;
    let caller = Caller::of(&worker).await;
    assert_eq!(receipt(&caller, &body(MESSAGE, "7500")).await.status, 404);
    assert_eq!(reply(caller.http.head(caller.url(PATH))).await.status, 404);
    worker.stop().await;
    assert_eq!(rig.amqp.depth(&rig.name("receipts")).await, None, "no queue of receipts");
}

#[tokio::test]
async fn receipt_without_a_valid_signature_is_refused_before_anything_reads_it() {
    let rig = Rig::new().await;
    let (worker, caller, admin) = start(&rig, &[]).await;
    let body = body(MESSAGE, "7500");
    let right = signature(HUB_SECRET, &body);
    let mut wrong = vec![
        right[..63].to_owned(),
        right[..32].to_owned(),
        "x".repeat(64),
        format!("sha512={right}"),
        signature_512(HUB_SECRET, &body),
        signature("another-secret-of-a-webhook", &body),
        signature(HUB_SECRET, &format!("{body} ")),
    ];
    for signature in &wrong {
        let answer = reply(request(&caller, &body).header("x-hub-signature", signature)).await;
        assert_eq!((answer.status, answer.problem(&rig).as_str()), (401, "unauthenticated"), "{signature}");
    }
    wrong.push(String::new());
    assert_eq!(reply(request(&caller, &body)).await.status, 401);
    admin.until(r#"receipts_refused_total{reason="signature"}"#, "7").await;
    admin.until(r#"receipts_refused_total{reason="unsigned"}"#, "1").await;
    // Ten at once from one address; then the others are told to wait. A valid signature is still accepted.
    let mut last = 0;
    for _ in 0..4 {
        last = reply(request(&caller, &body)).await.status;
    }
    assert_eq!(last, 429);
    for header in [right.clone(), format!("sha256={right}"), right.to_uppercase()] {
        assert_eq!(reply(request(&caller, &body).header("x-hub-signature", &header)).await.status, 200);
    }
    worker.stop().await;
}

#[tokio::test]
async fn large_receipt_is_refused_by_its_length_and_while_it_is_read() {
    let rig = Rig::new().await;
    let (worker, caller, _) = start(&rig, &[]).await;
    let large = format!("{}{}", body("other", "7500"), " ".repeat(64 * 1024));
    let answer = receipt(&caller, &large).await;
    assert_eq!((answer.status, answer.problem(&rig).as_str()), (413, "too-large"));
    let chunk = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let signature = signature(HUB_SECRET, &large);
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: ingress\r\nX-Hub-Signature: {signature}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    assert!(caller.raw(format!("{head}{chunk}").as_bytes()).await.starts_with("HTTP/1.1 413"));
    let body = body("other", "7500");
    let fits = format!("{body}{}", " ".repeat(64 * 1024 - body.len()));
    assert_eq!(receipt(&caller, &fits).await.status, 200);
    worker.stop().await;
}

#[tokio::test]
async fn unreadable_and_foreign_receipts_get_200_and_are_not_published() {
    let rig = Rig::new().await;
    let (worker, caller, admin) = start(&rig, &[]).await;
    let other = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
    for foreign in [body(other, "7500"), body("", "7500"), body("order-34600000001", "7500")] {
        assert_eq!(receipt(&caller, &foreign).await.status, 200);
    }
    let nested = "[".repeat(60_000);
    for malformed in ["", "flowsecret 34600000001", "[]", "{}", &nested] {
        assert_eq!(receipt(&caller, malformed).await.status, 200);
    }
    admin.until(r#"receipts_refused_total{reason="foreign"}"#, "3").await;
    admin.until(r#"receipts_refused_total{reason="malformed"}"#, "5").await;
    assert_eq!(rig.amqp.depth(&rig.name("receipts")).await.unwrap().0, 0);
    worker.stop().await;
}

#[tokio::test]
async fn receipt_of_a_forgotten_message_has_its_id_only() {
    let rig = Rig::new().await;
    let (worker, caller, admin) = start(&rig, &[("ingress.clients.flows.token", CLIENT_TOKEN)]).await;
    let mut published = rig.amqp.consume(&rig.name("receipts")).await;
    assert_eq!(receipt(&caller, &body(MESSAGE, "7207")).await.status, 200);
    let received = published.next().await;
    assert_eq!(
        received.json(),
        serde_json::json!({
            "messageId": MESSAGE, "channel": "sms", "state": "failed", "final": true, "cause": "unreachable", "mayPass": true,
            "code": "7207", "at": "2026-11-21T10:00:04.12Z", "parts": 2, "carrier": "Carrier",
        })
    );
    assert_eq!(received.routing_key, "receipt.sms");
    assert_eq!(receipt(&caller, &body(MESSAGE, "7998")).await.status, 200);
    assert_eq!(published.next().await.json()["state"], "unknown");
    admin.until("receipt_codes_unknown_total", "1").await;
    admin.until(r#"receipts_total{cause="unreachable",channel="sms",state="failed"}"#, "1").await;
    worker.stop().await;
}

#[tokio::test]
async fn receipts_without_a_signature_are_taken_only_if_set() {
    let rig = Rig::new().await;
    let unsigned = [("receipts.secret", ""), ("receipts.allow_unsigned", "true")];
    let (worker, caller, _) = start(&rig, &unsigned).await;
    assert_eq!(reply(request(&caller, &body(MESSAGE, "7500"))).await.status, 200);
    rig.amqp.consume(&rig.name("receipts")).await.next().await;
    worker.stop().await;
}

#[tokio::test]
async fn receipts_with_a_key_alone_are_taken_with_it_only() {
    let rig = Rig::new().await;
    let settings = [("receipts.secret", ""), ("receipts.key", KEY), ("receipts.key_header", "X-Receipt-Key")];
    let (worker, caller, admin) = start(&rig, &settings).await;
    let body = body(MESSAGE, "7500");
    let post = || request(&caller, &body);
    for (refused, reason) in [
        (post(), "unsigned"),
        (post().header("x-hub-signature", signature(HUB_SECRET, &body)), "unsigned"),
        (post().header("x-api-key", KEY), "unsigned"),
        (post().header("x-receipt-key", "another-key-of-receipts"), "key"),
        (post().header("x-receipt-key", KEY).header("x-receipt-key", KEY), "key"),
    ] {
        let answer = reply(refused).await;
        assert_eq!((answer.status, answer.problem(&rig).as_str()), (401, "unauthenticated"), "{reason}");
    }
    admin.until(r#"receipts_refused_total{reason="unsigned"}"#, "3").await;
    admin.until(r#"receipts_refused_total{reason="key"}"#, "2").await;
    assert_eq!(reply(post().header("x-receipt-key", KEY)).await.status, 200);
    rig.amqp.consume(&rig.name("receipts")).await.next().await;
    assert!(!worker.output.text().contains(KEY));
    worker.stop().await;
}

#[tokio::test]
async fn receipt_needs_both_signature_and_key_if_both_are_set() {
    let rig = Rig::new().await;
    let (worker, caller, _) = start(&rig, &[("receipts.key", KEY)]).await;
    let body = body("other", "7500");
    let right = signature(HUB_SECRET, &body);
    let status = async |key: &str, signature: &str| {
        let request = request(&caller, &body).header("x-api-key", key);
        reply(request.header("x-hub-signature", signature)).await.status
    };
    assert_eq!(status(KEY, &right).await, 200);
    assert_eq!(status(KEY, &signature("another-secret-of-a-webhook", &body)).await, 401);
    assert_eq!(status("another-key-of-receipts", &right).await, 401);
    assert_eq!(reply(request(&caller, &body).header("x-hub-signature", &right)).await.status, 401);
    worker.stop().await;
}

#[tokio::test]
async fn secret_file_rotates_without_a_restart() {
    let rig = Rig::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let new = "the-new-secret-of-the-webhook";
    std::fs::write(&path, HUB_SECRET).unwrap();
    let settings = [("receipts.secret", ""), ("receipts.secret_file", path.to_str().unwrap())];
    let (worker, caller, _) = start(&rig, &settings).await;
    let body = body("other", "7500");
    let status = async |secret: &str| {
        reply(request(&caller, &body).header("x-hub-signature", signature(secret, &body))).await.status
    };
    assert_eq!(status(HUB_SECRET).await, 200);
    std::fs::write(&path, format!("{HUB_SECRET}\n{new}\n")).unwrap();
    testkit::poll("the new secret", async || (status(new).await == 200).then_some(())).await;
    assert_eq!(status(HUB_SECRET).await, 200, "both are valid");
    worker.stop().await;
}

#[tokio::test]
async fn topology_has_receipts_only_if_they_are_on() {
    let rig = Rig::new().await;
    let names = async |settings: &[(&str, &str)]| {
        let said = rig.command(&["topology", "--json"], settings).await;
        assert_eq!(said.status, Some(0), "{said:?}");
        said.stdout.lines().filter(|line| line.contains(".receipts")).count()
    };
    assert_eq!(names(&[]).await, 0);
    assert!(names(&RECEIPTS).await > 0);
}

#[tokio::test]
async fn worker_with_receipts_and_without_an_ingress_does_not_start() {
    let rig = Rig::new().await;
    let finished = rig.command(&["run"], &[("receipts.secret", HUB_SECRET)]).await;
    assert_eq!(finished.status, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("ingress.listen"), "{finished:?}");
}

/// The ingress would note receipts in a ledger that the stages do not read.
#[tokio::test]
async fn roles_that_share_no_ledger_do_not_start_with_receipts() {
    let rig = SendRig::new().await;
    let url = rig.connect.url();
    for role in ["ingress", "stages"] {
        let receipts = [("receipts.secret", HUB_SECRET), ("ingress.listen", "127.0.0.1:0")];
        let finished = rig.rig.command(&["run", "--role", role], &settings(url.as_str(), &receipts)).await;
        assert_eq!(finished.status, Some(2), "{role}: {finished:?}");
        assert!(finished.stderr.contains("expected redis, because receipts are on"), "{role}: {finished:?}");
    }
}
