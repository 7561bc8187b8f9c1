//! Receipts from the message to the guest until a reader of the queue, with the fake of Webex Connect.

use std::collections::{BTreeMap, BTreeSet};

use instant_connect_sandbox::{Endpoint, Fault, Frequency, ReceiptFault, ReceiptState};
use serde_json::json;
use testkit::{
    admin::Admin,
    amqp::{Received, with_id},
    events::{event_with, number},
};

use super::{ReceiptRig, state};

/// Everything in a receipt that must not be there: numbers, links, addresses and texts.
fn assert_is_clean(received: &Received) {
    let text = String::from_utf8(received.body.clone()).unwrap();
    for word in [
        "346",
        "visit/",
        "192.0.2.1",
        "Mozilla",
        "Delivered",
        "Submitted",
        "waid",
        "destination",
        "Guadalupe",
    ] {
        assert!(!text.contains(word), "{word} in {text}");
    }
}

#[tokio::test]
async fn receipts_of_both_channels_are_published_with_the_fields_of_their_event() {
    let rig = ReceiptRig::new().await;
    let worker = rig.start(&[]).await;
    let admin = Admin::of(&worker).await;
    rig.save_webhook().await;
    let mut published = rig.published().await;
    let event = event_with(
        7,
        &json!({"guests": [{"channel": "sms", "address": number(1)}, {"channel": "whatsapp", "address": number(2)}]}),
    );
    rig.send.rig.publish_event(with_id("event-7"), &event).await;
    let all = published.take(5).await;
    let links: BTreeSet<_> =
        rig.send.connect.sends().iter().map(|sent| sent.correlation_id.clone().unwrap()).collect();
    let mut states: BTreeMap<String, Vec<(String, bool)>> = BTreeMap::new();
    for received in &all {
        assert_is_clean(received);
        let receipt = received.json();
        assert!(links.contains(receipt["messageId"].as_str().unwrap()), "{receipt}");
        assert_eq!((&receipt["eventId"], &receipt["sessionId"]), (&json!("event-7"), &json!("visit-7")));
        assert_eq!(receipt["correlationId"], event["correlationId"]);
        assert_eq!(receipt["attributes"], event["attributes"]);
        let channel = receipt["channel"].as_str().unwrap();
        assert_eq!(received.routing_key, format!("receipt.{channel}"));
        assert_eq!(received.exchange, rig.send.rig.name("receipts"));
        let properties = &received.properties;
        assert_eq!(properties.kind().as_ref().unwrap().as_str(), "video.receipt.v1");
        assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), event["correlationId"]);
        assert_eq!(received.header("x-deduplication-header"), received.id());
        let at: jiff::Timestamp = receipt["at"].as_str().unwrap().parse().unwrap();
        assert!(at <= jiff::Timestamp::now());
        let (state, is_final) = state(&receipt);
        states.entry(channel.to_owned()).or_default().push((state.to_owned(), is_final));
    }
    let of = |states: &[(&str, bool)]| {
        states.iter().map(|(name, last)| ((*name).to_owned(), *last)).collect::<Vec<_>>()
    };
    assert_eq!(states["sms"], of(&[("submitted", false), ("delivered", true)]));
    assert_eq!(states["whatsapp"], of(&[("submitted", false), ("delivered", true), ("read", true)]));
    assert_eq!(all.iter().map(Received::id).collect::<BTreeSet<_>>().len(), 5);
    for channel in ["sms", "whatsapp"] {
        admin.until(&format!(r#"link_to_delivered_seconds_count{{channel="{channel}"}}"#), "1").await;
        let series = format!(r#"receipts_total{{cause="none",channel="{channel}",state="delivered"}}"#);
        admin.until(&series, "1").await;
    }
    worker.stop().await;
}

#[tokio::test]
async fn duplicates_have_one_id_and_overtaking_receipts_their_own_state() {
    let rig = ReceiptRig::new().await;
    let worker = rig.start(&[]).await;
    rig.save_webhook().await;
    let mut published = rig.published().await;
    rig.send.fault(Endpoint::Receipts, Fault::Receipt(ReceiptFault::Duplicate), Frequency::Times(1));
    rig.send.rig.publish(1).await;
    let all = published.take(4).await;
    let states: Vec<_> = all.iter().map(|received| received.json()["state"].clone()).collect();
    assert_eq!(states, ["submitted", "submitted", "delivered", "delivered"]);
    assert_eq!((all[0].id(), all[2].id()), (all[1].id(), all[3].id()));
    assert_ne!(all[0].id(), all[2].id());
    rig.send.connect.clear_faults();
    rig.send.fault(Endpoint::Receipts, Fault::Receipt(ReceiptFault::Reorder), Frequency::Times(1));
    rig.send.rig.publish(2).await;
    let states: Vec<_> =
        published.take(2).await.iter().map(|received| received.json()["state"].clone()).collect();
    assert_eq!(states, ["delivered", "submitted"]);
    worker.stop().await;
}

#[tokio::test]
async fn failed_message_has_a_cause_and_a_click_shows_nobody() {
    let rig = ReceiptRig::new().await;
    let worker = rig.start(&[]).await;
    rig.save_webhook().await;
    let mut published = rig.published().await;
    for (n, (code, cause, may_pass)) in
        [(7207, "unreachable", true), (7109, "consent", false), (7284, "blocked", false)]
            .into_iter()
            .enumerate()
    {
        rig.send.fault(Endpoint::Receipts, Fault::Receipt(ReceiptFault::Fail(code)), Frequency::Times(1));
        rig.send.rig.publish(n).await;
        let failed = published.take(2).await.remove(1);
        assert_is_clean(&failed);
        let failed = failed.json();
        assert_eq!((state(&failed), &failed["code"]), (("failed", true), &json!(code.to_string())));
        assert_eq!((&failed["cause"], &failed["mayPass"]), (&json!(cause), &json!(may_pass)));
        rig.send.connect.clear_faults();
    }
    let sent = rig.send.connect.sends().remove(0);
    rig.send.connect.send_receipt(&sent, ReceiptState::Clicked).await.unwrap();
    let clicked = published.next().await;
    assert_is_clean(&clicked);
    assert_eq!(state(&clicked.json()), ("clicked", true));
    worker.stop().await;
}

#[tokio::test]
async fn receipts_with_the_signature_of_another_secret_are_refused_and_others_are_taken() {
    let rig = ReceiptRig::new().await;
    let worker = rig.start(&[]).await;
    let admin = Admin::of(&worker).await;
    rig.save_webhook().await;
    rig.send.connect.change_settings(|settings| settings.webhook.as_mut().unwrap().retries = 0);
    let mut published = rig.published().await;
    rig.send.fault(Endpoint::Receipts, Fault::Receipt(ReceiptFault::BadSignature), Frequency::Times(1));
    rig.send.rig.publish(1).await;
    admin.until(r#"receipts_refused_total{reason="signature"}"#, "2").await;
    rig.send.connect.clear_faults();
    rig.send.rig.publish(2).await;
    assert_eq!(published.next().await.json()["eventId"], "event-2");
    rig.until_confirmed(2).await;
    worker.stop().await;
}
