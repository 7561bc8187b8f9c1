//! Receipts.

use std::{collections::BTreeSet, time::Duration};

use axum::http::Method;
use serde_json::{Value, json};
use url::Url;

use super::{
    ConnectProbe, serve, sms,
    webhook::{WebhookCall, WebhookStub},
    whatsapp,
};
use crate::{
    ReceiptForm, ReceiptResult, ReceiptState, ReceiptWebhook, SignatureAlgorithm,
    connect::receipts,
    jose::{Signature, mac},
};

const SECRET: &str = "hub-secret";

fn webhook(url: Url) -> ReceiptWebhook {
    ReceiptWebhook {
        secret: Some(SECRET.into()),
        retry_interval: Duration::from_millis(1),
        ..ReceiptWebhook::new(url)
    }
}

async fn probe(webhook: ReceiptWebhook) -> ConnectProbe {
    serve(|settings| settings.webhook = Some(webhook)).await
}

fn codes(calls: &[WebhookCall]) -> Vec<String> {
    calls.iter().map(WebhookCall::code).collect()
}

fn hex(alg: Signature, secret: &str, body: &[u8]) -> String {
    receipts::hex(&mac(alg, secret.as_bytes(), &[body]).unwrap())
}

#[tokio::test]
async fn receipts_follow_a_message_in_order_and_are_signed() {
    let (stub, url) = WebhookStub::serve(&[]).await;
    let probe = probe(webhook(url)).await;
    probe.handle.change_settings(|settings| settings.receipt_form = Some(ReceiptForm::default()));
    probe.sms(&sms(&json!({"callbackData": "flow-1"}))).await;
    probe.until(|handle| handle.counts().confirmed_receipts == 2).await;
    probe.whatsapp(&whatsapp(&json!({}))).await;
    probe.until(|handle| handle.counts().confirmed_receipts == 5).await;

    let (calls, sends) = (stub.calls(), probe.handle.sends());
    assert_eq!(codes(&calls), ["7501", "7500", "7501", "7500", "7502"]);
    for call in &calls {
        assert_eq!((&call.method, call.header("content-type")), (&Method::POST, "application/json"));
        assert_eq!(call.header("x-hub-signature"), hex(Signature::Hs256, SECRET, &call.body));
        assert_eq!(call.field("correlationid"), "0b5a8f7e-6f0f-5a53-9d0a-2a1f6d3f4c11");
        assert_eq!(call.field("destination"), "34600111222");
        assert!(call.headers.contains_key("x-wx-gtrid"));
    }
    assert_eq!(
        (calls[0].field("transid"), calls[0].field("callbackData")),
        (json!(sends[0].id), json!("flow-1"))
    );
    assert_eq!(calls[4].field("transid"), format!("{}_0", sends[1].id));
    assert_eq!(
        (calls[0].field("deliveryChannel"), calls[4].field("deliveryChannel")),
        (json!("SMS"), json!("WhatsApp"))
    );
}

#[tokio::test]
async fn signature_has_prefix_and_hash_of_the_settings() {
    let (stub, url) = WebhookStub::serve(&[]).await;
    let signed = ReceiptWebhook {
        algorithm: SignatureAlgorithm::Sha512,
        prefix: true,
        api_key: Some(("x-api-key".to_owned(), "api-secret".into())),
        ..webhook(url)
    };
    let probe = probe(signed).await;
    probe.handle.fault("receipts:receipt=bad-signature,times=1".parse().unwrap());
    probe.sms(&sms(&json!({}))).await;
    probe.until(|handle| handle.counts().receipts == 2).await;
    probe.sms(&sms(&json!({}))).await;
    probe.until(|handle| handle.counts().receipts == 4).await;
    for (number, call) in stub.calls().iter().enumerate() {
        let expected = format!("sha512={}", hex(Signature::Hs512, SECRET, &call.body));
        assert_eq!(call.header("x-hub-signature") == expected, number >= 2);
        assert_eq!(call.header("x-api-key"), "api-secret");
    }
}

/// The forms of the samples: channel in both cases, fields in and out of `deliveryInfo`, code as string and number, several
/// offsets.
#[tokio::test]
async fn receipts_in_a_row_have_contradictory_forms() {
    let (stub, url) = WebhookStub::serve(&[]).await;
    let probe = probe(webhook(url)).await;
    for _ in 0..12 {
        probe.sms(&sms(&json!({}))).await;
    }
    probe.until(|handle| handle.counts().confirmed_receipts == 24).await;
    let calls = stub.calls();
    let channels: BTreeSet<_> = calls.iter().map(|call| call.field("deliveryChannel").to_string()).collect();
    assert_eq!(channels.len(), 2);
    let places: BTreeSet<_> = calls
        .iter()
        .map(|call| {
            let body: Value = serde_json::from_slice(&call.body).unwrap();
            let outer = &body["deliveryInfoNotification"];
            (outer.get("transid").is_some(), outer["deliveryInfo"].get("code").is_some())
        })
        .collect();
    assert_eq!(places, [(false, true), (true, false), (true, true)].into());
    assert!(calls.iter().any(|call| call.field("code").is_u64()));
    let zones: BTreeSet<_> = calls
        .iter()
        .map(|call| {
            let time = call.field("timeStamp").as_str().unwrap().to_owned();
            let at: jiff::Timestamp = time.parse().unwrap();
            assert!(at <= jiff::Timestamp::now(), "{time}");
            time.split_at(23).1.to_owned()
        })
        .collect();
    assert_eq!(zones, ["Z", "+01:00", "-08:00", "+02:00"].map(str::to_owned).into());
}

#[tokio::test]
async fn receipt_is_retried_three_times_except_after_a_final_status() {
    for (answers, attempts, result) in [
        (&[503, 401, 201][..], 4, ReceiptResult::Status(200)),
        (&[500, 500, 500, 500][..], 4, ReceiptResult::Status(500)),
        (&[202][..], 1, ReceiptResult::Status(202)),
        (&[404][..], 1, ReceiptResult::Status(404)),
        (&[503, 302][..], 2, ReceiptResult::Status(302)),
    ] {
        let (stub, url) = WebhookStub::serve(answers).await;
        let probe = serve(|_| ()).await;
        probe.sms(&sms(&json!({}))).await;
        probe.handle.change_settings(|settings| settings.webhook = Some(webhook(url)));
        let send = probe.handle.sends().remove(0);
        assert_eq!(
            probe.handle.send_receipt(&send, ReceiptState::Delivered).await,
            Some(result),
            "{answers:?}"
        );
        let calls = stub.calls();
        assert_eq!(calls.len(), attempts, "{answers:?}");
        assert!(calls.iter().all(|call| call.body == calls[0].body));
        let recorded: Vec<_> = probe.handle.receipts().iter().map(|receipt| receipt.attempt).collect();
        assert_eq!(recorded, (1..=u32::try_from(attempts).unwrap()).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn silent_and_missing_webhooks_are_recorded() {
    let (_stub, url) = WebhookStub::serve(&[0]).await;
    let probe = serve(|_| ()).await;
    probe.sms(&sms(&json!({}))).await;
    let send = probe.handle.sends().remove(0);
    assert_eq!(probe.handle.send_receipt(&send, ReceiptState::Delivered).await, None);
    let silent = ReceiptWebhook { timeout: Duration::from_millis(20), retries: 0, ..webhook(url) };
    probe.handle.change_settings(|settings| settings.webhook = Some(silent));
    let result = probe.handle.send_receipt(&send, ReceiptState::Delivered).await;
    assert_eq!(result, Some(ReceiptResult::TimedOut));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let missing = ReceiptWebhook { retries: 1, ..webhook(format!("http://{free}/").parse().unwrap()) };
    probe.handle.change_settings(|settings| settings.webhook = Some(missing));
    let result = probe.handle.send_receipt(&send, ReceiptState::Delivered).await;
    assert_eq!(result, Some(ReceiptResult::Unreachable));
}

#[tokio::test]
async fn faults_drop_duplicate_reorder_delay_and_fail_receipts() {
    for (rule, expected) in [
        ("receipts:receipt=drop", &[][..]),
        ("receipts:receipt=duplicate", &["7501", "7501", "7500", "7500"]),
        ("receipts:receipt=reorder", &["7500", "7501"]),
        ("receipts:fail=7282", &["7501", "7282"]),
        ("receipts:delay=1ms", &["7501", "7500"]),
    ] {
        let (stub, url) = WebhookStub::serve(&[]).await;
        let probe = probe(webhook(url)).await;
        probe.handle.fault(rule.parse().unwrap());
        probe.sms(&sms(&json!({}))).await;
        probe.until(|handle| handle.counts().receipts >= expected.len().max(2) as u64).await;
        let calls = stub.calls();
        assert_eq!(codes(&calls), expected, "{rule}");
        if rule.ends_with("duplicate") {
            assert_eq!((&calls[0].body, &calls[2].body), (&calls[1].body, &calls[3].body));
        }
    }
}

#[tokio::test]
async fn webhook_is_saved_only_if_its_head_gets_200() {
    let (stub, url) = WebhookStub::serve(&[405]).await;
    let probe = serve(|_| ()).await;
    let refused = probe.handle.save_webhook(webhook(url.clone())).await;
    assert_eq!(refused, Err(ReceiptResult::Status(405)));
    probe.handle.save_webhook(webhook(url)).await.unwrap();
    assert!(stub.calls().iter().all(|call| call.method == Method::HEAD && call.body.is_empty()));
    probe.sms(&sms(&json!({"requestedReceipts": ["DELIVERED"]}))).await;
    probe.until(|handle| handle.counts().confirmed_receipts == 1).await;
    assert_eq!(stub.calls()[2].code(), "7500");
}
