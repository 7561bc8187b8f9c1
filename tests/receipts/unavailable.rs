//! A broker or a ledger that is away: 503, and the repeat of Webex Connect brings the receipt.

use std::time::{Duration, Instant};

use instant_connect_sandbox::{ReceiptResult, ReceiptState};
use secrecy::ExposeSecret as _;
use testkit::{Rig, admin::Admin, poll, redis_server::RedisServer, soon};

use super::{MESSAGE, ReceiptRig, body, receipt};
use crate::ingress::Caller;

#[tokio::test]
async fn receipt_while_the_broker_is_away_gets_503_and_its_repeat_has_one_message_id() {
    let rig = ReceiptRig::on(Rig::private().await).await;
    let worker = rig.start(&[]).await;
    let caller = Caller::of(&worker).await;
    rig.send.rig.publish(1).await;
    rig.send.until_sent(1).await;
    rig.save_webhook().await;
    let sent = rig.send.connect.sends().remove(0);
    rig.send.rig.broker().stop().await;
    let since = Instant::now();
    let answer = receipt(&caller, &body(MESSAGE, "7500")).await;
    assert_eq!((answer.status, answer.problem(&rig.send.rig).as_str()), (503, "unavailable"));
    assert!(since.elapsed() < Duration::from_secs(9), "{:?}", since.elapsed());
    assert_eq!(answer.header("retry-after"), "5");
    let connect = rig.send.connect.clone();
    let sending = tokio::spawn(async move { connect.send_receipt(&sent, ReceiptState::Delivered).await });
    let refused = rig.send.connect.until(|connect| connect.counts().receipts >= 2);
    soon("two attempts", refused).await;
    rig.send.rig.broker().start_again().await;
    assert_eq!(sending.await.unwrap(), Some(ReceiptResult::Status(200)));
    let attempts = rig.send.connect.receipts();
    assert!(attempts[..2].iter().all(|attempt| attempt.result == ReceiptResult::Status(503)), "{attempts:?}");
    let amqp = rig.send.rig.reconnect().await;
    let queue = rig.send.rig.name("receipts");
    let (count, _) = amqp.depth(&queue).await.unwrap();
    let published = amqp.consume(&queue).await.take(usize::try_from(count).unwrap()).await;
    assert!(!published.is_empty());
    let first = published[0].id();
    assert!(
        published.iter().all(|received| received.id() == first && received.json()["eventId"] == "event-1")
    );
    worker.stop().await;
}

#[tokio::test]
async fn receipt_without_the_ledger_waits_or_is_published_without_its_event() {
    for (on_failure, status) in [("wait", 503), ("continue", 200)] {
        let rig = ReceiptRig::new().await;
        let mut redis = RedisServer::start();
        let url = redis.url();
        let settings = [
            ("ledger.kind", "redis"),
            ("ledger.url", url.expose_secret()),
            ("ledger.on_failure", on_failure),
        ];
        let worker = rig.start(&settings).await;
        let (caller, admin) = (Caller::of(&worker).await, Admin::of(&worker).await);
        redis.kill();
        let answer = receipt(&caller, &body(MESSAGE, "7500")).await;
        assert_eq!(answer.status, status, "{on_failure}");
        assert_eq!(admin.series().await[r#"ingress_ledger_failures_total{route="receipts"}"#], "1");
        if status == 503 {
            assert_eq!(answer.header("retry-after"), "5");
            redis.restart();
            let again = async || (receipt(&caller, &body(MESSAGE, "7500")).await.status == 200).then_some(());
            poll("the ledger", again).await;
        }
        let published = rig.published().await.next().await.json();
        assert_eq!(
            (&published["messageId"], &published["eventId"]),
            (&MESSAGE.into(), &serde_json::Value::Null)
        );
        worker.stop().await;
    }
}
