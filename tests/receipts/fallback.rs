//! A guest whom `WhatsApp` does not reach gets the link by SMS, if set.

use instant_connect_sandbox::{
    Endpoint, Fault, Frequency, ReceiptFault, ReceiptState, ReceiptWebhook, RecordedSend,
};
use serde_json::json;
use testkit::{
    admin::Admin,
    amqp::with_id,
    events::{event_with, number},
    program::Program,
};

use super::ReceiptRig;
use crate::send::refusal;

const FALLBACK: (&str, &str) = ("send.sms_fallback", "true");
/// The code of a number that is not on `WhatsApp`.
const NOT_REGISTERED: u32 = 7865;

/// Starts session `n` of one guest with `WhatsApp`.
async fn publish(rig: &ReceiptRig, n: usize) {
    let event =
        event_with(n, &json!({"guests": [{"channel": "whatsapp", "address": number(n), "locale": "es"}]}));
    rig.send.rig.publish_event(with_id(&format!("event-{n}")), &event).await;
}

fn endpoints(sends: &[RecordedSend]) -> Vec<Endpoint> {
    sends.iter().map(|sent| sent.endpoint).collect()
}

#[tokio::test]
async fn rejected_message_is_sent_by_sms() {
    let rig = ReceiptRig::new().await;
    let worker = rig.send.start(&[FALLBACK]).await;
    let admin = Admin::of(&worker).await;
    rig.send.fault(Endpoint::WhatsApp, refusal(NOT_REGISTERED), Frequency::Times(1));
    publish(&rig, 1).await;
    rig.send.until_sent(1).await;
    let sends = rig.send.connect.sends();
    assert_eq!(endpoints(&sends), [Endpoint::Sms]);
    assert_eq!(sends[0].address, number(1));
    admin.until(r#"fallbacks_total{reason="rejected"}"#, "1").await;
    // A disabled template is not the guest's.
    rig.send.fault(Endpoint::WhatsApp, refusal(7868), Frequency::Times(1));
    publish(&rig, 2).await;
    worker.output.until("dead-lettered", 1).await;
    worker.stop().await;
    let [waiting, dead] = ["guests.sms", "guests.whatsapp.dead"].map(|queue| rig.send.rig.name(queue));
    assert_eq!(rig.send.rig.amqp.depth(&waiting).await.unwrap().0, 0);
    assert_eq!(rig.send.rig.amqp.depth(&dead).await.unwrap().0, 1);
    assert_eq!(rig.send.connect.counts().sends, 1);
}

#[tokio::test]
async fn message_with_a_failed_receipt_is_sent_by_sms_once() {
    let rig = ReceiptRig::new().await;
    let worker = rig.start(&[FALLBACK]).await;
    let admin = Admin::of(&worker).await;
    rig.save_webhook().await;
    let mut published = rig.published().await;
    rig.send.fault(
        Endpoint::Receipts,
        Fault::Receipt(ReceiptFault::Fail(NOT_REGISTERED)),
        Frequency::Times(1),
    );
    publish(&rig, 1).await;
    rig.send.until_sent(2).await;
    let sends = rig.send.connect.sends();
    assert_eq!(endpoints(&sends), [Endpoint::WhatsApp, Endpoint::Sms]);
    assert_eq!(sends[0].url, sends[1].url);
    // Two receipts of each message.
    let receipts = published.take(4).await;
    let of_sms = receipts.iter().filter(|receipt| receipt.json()["channel"] == "sms");
    assert!(of_sms.clone().all(|receipt| receipt.json()["eventId"] == "event-1"));
    assert_eq!(of_sms.count(), 2);
    // Each phone may send a receipt twice.
    rig.send.connect.send_receipt(&sends[0], ReceiptState::Failed(NOT_REGISTERED)).await.unwrap();
    admin.until(r#"fallbacks_total{reason="receipt"}"#, "2").await;
    worker.output.until("\"stage\":\"sms\",\"outcome\":\"done\"", 2).await;
    worker.stop().await;
    assert_eq!(rig.send.connect.counts().sends, 2, "the repeated receipt sends nothing");
}

/// Logged if a link must be published again.
const REPEATING: &str = "could not publish a guest link for stage sms; retrying until its session ends";

/// Starts session 1, whose receipt fails once, while its link cannot reach stage `sms`. Webex Connect repeats no receipt.
async fn fail_without_a_binding(rig: &ReceiptRig, worker: &Program) {
    let once = ReceiptWebhook { retries: 0, ..rig.webhook() };
    rig.send.connect.save_webhook(once).await.unwrap();
    let (queue, links) = (rig.send.rig.name("guests.sms"), rig.send.rig.name("links"));
    rig.send.rig.amqp.unbind(&queue, &links, "guest.sms").await;
    let fails = Fault::Receipt(ReceiptFault::Fail(NOT_REGISTERED));
    rig.send.fault(Endpoint::Receipts, fails, Frequency::Times(1));
    publish(rig, 1).await;
    worker.output.until(REPEATING, 1).await;
}

async fn bind_again(rig: &ReceiptRig) {
    let (queue, links) = (rig.send.rig.name("guests.sms"), rig.send.rig.name("links"));
    rig.send.rig.amqp.bind(&queue, &links, "guest.sms").await;
}

#[tokio::test]
async fn link_that_could_not_be_published_is_published_without_another_receipt() {
    let rig = ReceiptRig::new().await;
    let worker = rig.start(&[FALLBACK]).await;
    fail_without_a_binding(&rig, &worker).await;
    bind_again(&rig).await;
    rig.send.until_sent(2).await;
    worker.output.until("\"stage\":\"sms\",\"outcome\":\"done\"", 1).await;
    worker.stop().await;
    assert_eq!(endpoints(&rig.send.connect.sends()), [Endpoint::WhatsApp, Endpoint::Sms]);
}

#[tokio::test]
async fn link_of_a_message_that_was_delivered_meanwhile_is_not_published() {
    let rig = ReceiptRig::new().await;
    let worker = rig.start(&[FALLBACK]).await;
    fail_without_a_binding(&rig, &worker).await;
    let sent = rig.send.connect.sends().remove(0);
    rig.send.connect.send_receipt(&sent, ReceiptState::Delivered).await.unwrap();
    bind_again(&rig).await;
    worker.output.until("a guest link is not sent by SMS: WhatsApp delivered it after all", 1).await;
    worker.stop().await;
    assert_eq!(rig.send.rig.amqp.depth(&rig.send.rig.name("guests.sms")).await.unwrap().0, 0);
    assert_eq!(rig.send.connect.counts().sends, 1);
}

#[tokio::test]
async fn stopping_worker_names_the_message_whose_link_waits() {
    let rig = ReceiptRig::new().await;
    let worker = rig.start(&[FALLBACK]).await;
    fail_without_a_binding(&rig, &worker).await;
    let output = worker.output.clone();
    worker.stop().await;
    let stopping = "stopping while a guest link waits for stage sms; the guest may get no SMS";
    assert!(output.logged(stopping)[0]["message_id"].is_string());
}

#[tokio::test]
async fn delivered_message_and_one_with_another_failure_are_not_sent_by_sms() {
    let rig = ReceiptRig::new().await;
    let worker = rig.start(&[FALLBACK]).await;
    rig.save_webhook().await;
    let mut published = rig.published().await;
    publish(&rig, 1).await;
    published.take(3).await;
    let sends = rig.send.connect.sends();
    // A failure that a delivery overtook, and one that a text message would have, too.
    rig.send.connect.send_receipt(&sends[0], ReceiptState::Failed(NOT_REGISTERED)).await.unwrap();
    rig.send.fault(Endpoint::Receipts, Fault::Receipt(ReceiptFault::Fail(7005)), Frequency::Times(1));
    publish(&rig, 2).await;
    published.take(3).await;
    worker.stop().await;
    let waiting = rig.send.rig.amqp.depth(&rig.send.rig.name("guests.sms")).await.unwrap().0;
    assert_eq!((waiting, rig.send.connect.counts().sends), (0, 2));
}
