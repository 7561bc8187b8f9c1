//! A broker that is away: 503, and the repeat of Webex Connect brings the receipt.

use std::time::{Duration, Instant};

use instant_connect_sandbox::{ReceiptResult, ReceiptState};
use testkit::{Rig, soon};

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
