//! The limit of messages to one number.

use instant_connect_sandbox::{Endpoint, Fault, Frequency};
use secrecy::ExposeSecret;
use serde_json::json;

use super::{SendRig, refusal, settings};
use testkit::{amqp::with_id, events::number, redis_server::RedisServer, rig::BASE_URL};

/// Publishes guest links to one number, all with the same time, so that they belong to one hour.
struct Links<'a> {
    send: &'a SendRig,
    at: u64,
}

impl<'a> Links<'a> {
    fn of(send: &'a SendRig) -> Self {
        Self { send, at: u64::try_from(jiff::Timestamp::now().as_second()).unwrap() }
    }

    async fn publish(&self, numbers: impl IntoIterator<Item = usize>, channel: &str) {
        let rig = &self.send.rig;
        for n in numbers {
            let short = format!("flowsec{n}");
            let link = json!({
                "eventId": format!("event-{n}"), "sessionId": format!("visit-{n}"), "channel": channel, "to": number(1),
                "url": format!("{BASE_URL}{short}"), "baseUrl": BASE_URL, "short": short,
                "expiresAt": "2999-01-01T00:00:00Z",
            });
            let properties = with_id(&format!("link-{n}")).with_timestamp(self.at);
            let body = link.to_string().into_bytes();
            rig.amqp.publish(&rig.name("links"), &format!("guest.{channel}"), properties, &body).await;
        }
    }
}

#[tokio::test]
async fn messages_beyond_the_limit_of_a_number_are_dead_letters_and_repeats_count_once() {
    let send = SendRig::new().await;
    let links = Links::of(&send);
    let worker = send.start(&[("send.per_address_per_hour", "3")]).await;
    let mut dead = send.rig.dead_letters("guests.whatsapp").await;
    // Three attempts for one message.
    send.fault(Endpoint::Sms, refusal(7006), Frequency::Times(2));
    links.publish(1..=1, "sms").await;
    send.until_sent(1).await;
    links.publish(2..=2, "sms").await;
    links.publish(3..=3, "whatsapp").await;
    send.until_sent(3).await;
    links.publish(1..=2, "sms").await;
    links.publish(4..=4, "whatsapp").await;
    let letter = dead.next().await;
    assert_eq!(letter.header("x-dead-class"), "exhausted");
    let reason = letter.header("x-dead-reason");
    assert!(reason.contains("send.per_address_per_hour") && !reason.contains("346"), "{reason}");
    // Other numbers are not limited.
    send.rig.publish(5).await;
    send.until_sent(4).await;
    worker.stop().await;
    assert_eq!(send.connect.counts().sends, 4);
}

#[tokio::test]
async fn number_has_no_limit_if_it_is_zero() {
    let send = SendRig::new().await;
    let links = Links::of(&send);
    let worker = send.start(&[("send.per_address_per_hour", "0")]).await;
    links.publish(1..=15, "sms").await;
    send.until_sent(15).await;
    worker.stop().await;
    send.rig.assert_queues_are_empty(&send.rig.amqp).await;
}

/// Each worker sends on both channels, and Redis counts for both.
#[tokio::test]
async fn workers_that_share_redis_send_exactly_as_many_as_allowed() {
    const ALLOWED: u64 = 5;
    const EVENTS: usize = 30;
    let server = RedisServer::start();
    let url = server.url();
    let send = SendRig::new().await;
    let links = Links::of(&send);
    let more =
        [("ledger.kind", "redis"), ("ledger.url", url.expose_secret()), ("send.per_address_per_hour", "5")];
    let workers = [send.start(&more).await, send.start(&more).await];
    let mut dead = send.rig.dead_letters("guests.sms").await;
    links.publish(0..EVENTS, "sms").await;
    dead.take(EVENTS - 5).await;
    send.until_sent(ALLOWED).await;
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(send.connect.counts().sends, ALLOWED);
}

#[tokio::test]
async fn killed_worker_counts_no_message_twice() {
    for step in ["counted", "noted"] {
        let send = SendRig::new().await;
        let links = Links::of(&send);
        let url = send.connect.url();
        let limit = [("send.per_address_per_hour", "2")];
        let worker =
            send.rig.launch_with_fault(&settings(url.as_str(), &limit), &format!("sms.{step}:1:KILL"));
        worker.output.until("connected to broker; consuming", 1).await;
        links.publish(1..=1, "sms").await;
        worker.ended().await;
        let worker = send.start(&limit).await;
        send.until_sent(1).await;
        links.publish(2..=2, "sms").await;
        send.until_sent(2).await;
        let mut dead = send.rig.dead_letters("guests.sms").await;
        links.publish(3..=3, "sms").await;
        assert_eq!(dead.next().await.header("x-dead-class"), "exhausted", "{step}");
        worker.stop().await;
        assert_eq!(send.connect.counts().sends, 2, "{step}");
    }
}

/// The message was not sent, so its place is not lost for it.
#[tokio::test]
async fn message_that_was_refused_by_the_limit_can_be_replayed_when_there_is_room() {
    let send = SendRig::new().await;
    let links = Links::of(&send);
    let url = send.connect.url();
    let worker = send.start(&[("send.per_address_per_hour", "1")]).await;
    links.publish(1..=1, "sms").await;
    send.until_sent(1).await;
    links.publish(2..=2, "sms").await;
    let queue = send.rig.name("guests.sms.dead");
    testkit::poll("a dead letter", async || (send.rig.amqp.depth(&queue).await?.0 == 1).then_some(())).await;
    worker.stop().await;
    let more = [("send.per_address_per_hour", "2")];
    let worker = send.start(&more).await;
    let replay = ["dead", "replay", "--queue", "guests.sms", "--yes"];
    let replayed = send.rig.command(&replay, &settings(url.as_str(), &more)).await;
    assert_eq!(replayed.status, Some(0), "{}", replayed.stderr);
    send.until_sent(2).await;
    worker.stop().await;
    send.rig.assert_queues_are_empty(&send.rig.amqp).await;
}

#[tokio::test]
async fn message_that_may_have_been_sent_is_repeated_within_the_limit() {
    let send = SendRig::new().await;
    let links = Links::of(&send);
    let worker = send.start(&[("send.per_address_per_hour", "1")]).await;
    // The second time, the fault meets the request that cannot send a message, and has no effect.
    send.fault(Endpoint::Sms, Fault::CutAfterEffect, Frequency::Times(3));
    links.publish(1..=1, "sms").await;
    send.until_sent(3).await;
    worker.stop().await;
    send.rig.assert_queues_are_empty(&send.rig.amqp).await;
}
