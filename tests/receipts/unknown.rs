//! A message that may have been sent waits for its receipt.

use instant_connect_sandbox::{Endpoint, Fault, Frequency, ReceiptState};
use secrecy::ExposeSecret as _;
use serde_json::json;
use testkit::{
    admin::Admin, amqp::with_id, events::event_with, poll, program::Program, redis_server::RedisServer,
};

use super::ReceiptRig;

/// The log line about the wait.
const WAITING: &str = "waiting for its receipt";

async fn resolved(program: &Program, by: &str) {
    Admin::of(program).await.until(&format!(r#"sends_unknown_total{{resolved_by="{by}"}}"#), "1").await;
}

/// The next text message arrives, and its response does not.
fn lose_the_response(rig: &ReceiptRig) {
    rig.send.fault(Endpoint::Sms, Fault::CutAfterEffect, Frequency::Times(1));
}

#[tokio::test]
async fn receipt_that_comes_during_the_wait_shows_that_the_message_was_sent() {
    let rig = ReceiptRig::new().await;
    let worker = rig.start(&[("send.unknown_wait", "5s")]).await;
    lose_the_response(&rig);
    rig.send.rig.publish(1).await;
    worker.output.until(WAITING, 1).await;
    rig.save_webhook().await;
    let sent = rig.send.connect.sends().remove(0);
    rig.send.connect.send_receipt(&sent, ReceiptState::Submitted).await.unwrap();
    resolved(&worker, "receipt").await;
    worker.stop().await;
    assert_eq!(rig.send.connect.counts().sends, 1);
    rig.published().await.next().await;
    rig.send.rig.assert_queues_are_empty(&rig.send.rig.amqp).await;
}

#[tokio::test]
async fn message_without_a_receipt_is_sent_again_after_the_wait() {
    let rig = ReceiptRig::new().await;
    let worker = rig.start(&[("send.unknown_wait", "1s")]).await;
    lose_the_response(&rig);
    rig.send.rig.publish(1).await;
    rig.send.until_sent(2).await;
    resolved(&worker, "repeat").await;
    worker.stop().await;
    let sends = rig.send.connect.sends();
    let between = sends[1].at.duration_since(sends[0].at);
    assert!(between >= jiff::SignedDuration::from_millis(900), "{between:?}");
    assert_eq!(sends.len(), 2);
}

/// True if no message is left.
async fn is_done(rig: &ReceiptRig) -> bool {
    rig.send.rig.amqp.depth(&rig.send.rig.name("guests.sms")).await.unwrap().0 == 0
}

/// A guest who gets two messages is better off than one who gets none.
#[tokio::test]
async fn message_whose_session_ends_during_the_wait_is_sent_again_at_once() {
    let rig = ReceiptRig::new().await;
    let worker = rig.start(&[("send.unknown_wait", "1h")]).await;
    lose_the_response(&rig);
    let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(10);
    let event = event_with(1, &json!({"expiresAt": expires.to_string()}));
    rig.send.rig.publish_event(with_id("event-1"), &event).await;
    rig.send.until_sent(2).await;
    resolved(&worker, "repeat").await;
    worker.stop().await;
}

#[tokio::test]
async fn message_without_a_receipt_becomes_a_dead_letter_if_set() {
    let rig = ReceiptRig::new().await;
    let worker = rig.start(&[("send.unknown_wait", "1s"), ("send.on_unknown", "dead")]).await;
    let mut dead = rig.send.rig.dead_letters("guests.sms").await;
    lose_the_response(&rig);
    rig.send.rig.publish(1).await;
    let letter = dead.next().await;
    assert_eq!(letter.header("x-dead-class"), "exhausted");
    assert!(letter.header("x-dead-reason").contains("may have been sent once"));
    resolved(&worker, "dead").await;
    worker.stop().await;
    assert_eq!(rig.send.connect.counts().sends, 1);
}

#[tokio::test]
async fn message_waits_for_nothing_without_a_wait_or_without_receipts() {
    for more in [&[("send.unknown_wait", "0s")][..], &[("receipts.secret", "")]] {
        let rig = ReceiptRig::new().await;
        let client = ("ingress.clients.flows.token", testkit::rig::CLIENT_TOKEN);
        let worker = rig.start(&[&[client][..], more].concat()).await;
        lose_the_response(&rig);
        rig.send.rig.publish(1).await;
        rig.send.until_sent(2).await;
        resolved(&worker, "repeat").await;
        let output = std::sync::Arc::clone(&worker.output);
        worker.stop().await;
        assert_eq!(output.count_lines(WAITING), 0);
    }
}

#[tokio::test]
async fn worker_that_was_killed_after_the_call_finds_the_receipt() {
    let rig = ReceiptRig::new().await;
    let url = rig.send.connect.url();
    let settings = crate::send::settings(url.as_str(), &rig.settings(&[("send.unknown_wait", "5s")]));
    let worker = rig.send.rig.launch_with_fault(&settings, "sms.answered:1:KILL");
    worker.output.until("connected to broker; consuming", 1).await;
    // The receipts come while no worker runs, and are repeated until one does.
    rig.save_webhook().await;
    rig.send.rig.publish(1).await;
    worker.ended().await;
    let worker = rig.start(&[("send.unknown_wait", "5s")]).await;
    resolved(&worker, "receipt").await;
    poll("no work is left", async || is_done(&rig).await.then_some(())).await;
    worker.stop().await;
    assert_eq!(rig.send.connect.counts().sends, 1);
}

/// As the chart deploys it: the stages have no ingress and no secret.
#[tokio::test]
async fn receipt_at_the_ingress_of_another_worker_is_found_in_redis() {
    let rig = ReceiptRig::new().await;
    let server = RedisServer::start();
    let redis = server.url();
    let url = rig.send.connect.url();
    let shared =
        [("ledger.kind", "redis"), ("ledger.url", redis.expose_secret()), ("send.unknown_wait", "5s")];
    let shared = crate::send::settings(url.as_str(), &shared);
    let of_ingress = [&shared[..], &rig.settings(&[])].concat();
    let of_stages = [&shared[..], &[("receipts.secret_file", "/etc/a-file/that-is-missing")]].concat();
    let ingress = rig.send.rig.launch_role("ingress", &of_ingress);
    let stages = rig.send.rig.launch_role("stages", &of_stages);
    stages.output.until("subscribed to queue", 4).await;
    for program in [&ingress, &stages] {
        Admin::of(program).await.until(r#"connected{connection="publish"}"#, "1").await;
    }
    lose_the_response(&rig);
    rig.send.rig.publish(1).await;
    stages.output.until(WAITING, 1).await;
    rig.save_webhook().await;
    let sent = rig.send.connect.sends().remove(0);
    rig.send.connect.send_receipt(&sent, ReceiptState::Delivered).await.unwrap();
    let receipt = rig.published().await.next().await.json();
    assert_eq!((&receipt["eventId"], &receipt["state"]), (&json!("event-1"), &json!("delivered")));
    resolved(&stages, "receipt").await;
    stages.stop().await;
    ingress.stop().await;
    assert_eq!(rig.send.connect.counts().sends, 1);
}
