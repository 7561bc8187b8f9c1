//! A repeated request has one effect.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use secrecy::ExposeSecret;
use serde_json::json;

use testkit::{Rig, admin::Admin, event, events::event_with, redis_server::RedisServer};

use super::{Caller, reply, with};

#[tokio::test]
async fn same_key_again_is_replayed_and_with_another_body_refused() {
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[])).await;
    let caller = Caller::of(&worker).await;
    let first = caller.start("run-1", &event(1)).await;
    let quoted = caller.start("\"run-1\"", &event(1)).await;
    assert_eq!((first.status, quoted.status), (202, 202));
    assert_eq!(first.json()["eventId"], quoted.json()["eventId"]);
    assert_eq!(quoted.json()["replayed"], true);
    assert_eq!(quoted.header("idempotent-replayed"), "true");
    let other = caller.start("run-1", &event(2)).await;
    assert_eq!((other.status, other.problem(&rig).as_str()), (422, "key-reused"));
    // Another key is another event, even for the same session.
    let second = caller.start("run-2", &event(1)).await;
    assert_ne!(second.json()["eventId"], first.json()["eventId"]);
    assert_eq!(rig.guest_links().await.take(2).await.len(), 2);
    rig.until_experts_have(2).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().joseencrypt, 2);
}

#[tokio::test]
async fn request_without_a_key_is_identified_by_its_body_unless_a_key_is_required() {
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[])).await;
    let caller = Caller::of(&worker).await;
    let post = async |caller: &Caller, n| reply(caller.post().body(event(n).to_string())).await;
    let replies = [post(&caller, 1).await, post(&caller, 1).await, post(&caller, 2).await];
    assert_eq!(replies[0].json()["eventId"], replies[1].json()["eventId"]);
    assert_ne!(replies[0].json()["eventId"], replies[2].json()["eventId"]);
    assert_eq!(replies[1].json()["replayed"], true);
    rig.until_experts_have(2).await;
    worker.stop().await;
    let worker = rig.start(&with(&[("ingress.require_idempotency_key", "true")])).await;
    let caller = Caller::of(&worker).await;
    assert_eq!(post(&caller, 1).await.problem(&rig), "malformed");
    worker.stop().await;
}

/// Requests at the same time, to two replicas that share a Redis.
#[tokio::test]
async fn same_key_at_once_on_two_replicas_makes_one_event() {
    let redis = RedisServer::start();
    let url = redis.url();
    let settings = with(&[("ledger.kind", "redis"), ("ledger.url", url.expose_secret())]);
    let rig = Rig::new().await;
    let workers = [rig.start(&settings).await, rig.start(&settings).await];
    let callers = [Caller::of(&workers[0]).await, Caller::of(&workers[1]).await];
    let event = event(1);
    let replies = join_all((0..16).map(|n| callers[n % 2].start("run-1", &event))).await;
    let mut accepted = 0;
    let mut ids = BTreeSet::new();
    for reply in &replies {
        // Who waited too long for the others may repeat.
        if reply.status == 409 {
            assert_eq!((reply.problem(&rig).as_str(), reply.header("retry-after")), ("in-flight", "1"));
            continue;
        }
        assert_eq!(reply.status, 202, "{reply:?}");
        accepted += usize::from(reply.json()["replayed"] == false);
        ids.insert(reply.json()["eventId"].to_string());
    }
    assert_eq!((accepted, ids.len()), (1, 1), "{replies:?}");
    rig.guest_links().await.next().await;
    rig.until_experts_have(1).await;
    for worker in workers {
        worker.stop().await;
    }
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().joseencrypt, 1);
}

/// One of the two bodies is accepted, and the other is refused by whichever replica it meets.
#[tokio::test]
async fn same_key_at_once_with_two_bodies_on_two_replicas_accepts_one_body() {
    let redis = RedisServer::start();
    let url = redis.url();
    let settings = with(&[("ledger.kind", "redis"), ("ledger.url", url.expose_secret())]);
    let rig = Rig::new().await;
    let workers = [rig.start(&settings).await, rig.start(&settings).await];
    let callers = [Caller::of(&workers[0]).await, Caller::of(&workers[1]).await];
    let events = [event(1), event(2)];
    let replies = join_all((0..16).map(|n| callers[n % 2].start("run-1", &events[n / 2 % 2]))).await;
    let mut accepted = BTreeSet::new();
    for reply in &replies {
        match reply.status {
            202 => _ = accepted.insert(reply.json()["sessionId"].to_string()),
            409 => assert_eq!(reply.problem(&rig), "in-flight"),
            _ => assert_eq!((reply.status, reply.problem(&rig).as_str()), (422, "key-reused"), "{reply:?}"),
        }
    }
    assert_eq!(accepted.len(), 1, "{replies:?}");
    rig.until_experts_have(1).await;
    for worker in workers {
        worker.stop().await;
    }
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().joseencrypt, 1);
}

/// A client chooses among its own events only: the same key of another client is another event.
#[tokio::test]
async fn same_key_of_another_client_is_another_event() {
    const OTHER: &str = "rig-client-token-that-came-after-it";
    let rig = Rig::new().await;
    let worker = rig.start(&with(&[("ingress.clients.other.token", OTHER)])).await;
    let caller = Caller::of(&worker).await;
    let first = caller.start("run-1", &event(1)).await;
    let request = caller.http.post(caller.url("/v1/sessions")).bearer_auth(OTHER);
    let request = request.header("content-type", "application/json").header("idempotency-key", "run-1");
    let second = reply(request.body(event(2).to_string())).await;
    assert_eq!((first.status, second.status), (202, 202), "{second:?}");
    assert_ne!(first.json()["eventId"], second.json()["eventId"]);
    assert_eq!(second.json()["replayed"], false);
    rig.until_experts_have(2).await;
    worker.stop().await;
}

/// Killed after the confirm: the client has no answer, and the ingress has no record.
#[cfg(debug_assertions)]
#[tokio::test]
async fn repeat_after_a_kill_between_confirm_and_answer_makes_no_second_link() {
    for point in ["ingress.confirmed:1:KILL", "ingress.recorded:1:KILL"] {
        let rig = Rig::new().await;
        let worker = rig.launch_with_fault(&with(&[]), point);
        let caller = Caller::of(&worker).await;
        let request = caller.post().header("idempotency-key", "run-1").body(event(1).to_string());
        assert!(request.send().await.is_err(), "the program was killed before its answer");
        assert!(!worker.ended().await.success());
        let worker = rig.start(&with(&[])).await;
        let caller = Caller::of(&worker).await;
        let repeat = caller.start("run-1", &event(1)).await;
        assert_eq!(repeat.status, 202, "{repeat:?}");
        assert_eq!(repeat.json()["replayed"], point.contains("recorded"));
        let mut guests = rig.guest_links().await;
        assert_eq!(guests.next().await.json()["eventId"], repeat.json()["eventId"]);
        // Events are processed in order, so the next link shows that the repeat brought none.
        assert_eq!(caller.start("run-2", &event(2)).await.status, 202);
        assert_eq!(guests.next().await.json()["sessionId"], "visit-2");
        rig.until_experts_have(2).await;
        worker.stop().await;
        rig.assert_queues_are_empty(&rig.amqp).await;
        assert_eq!(rig.sandbox.counts().messages, 2);
    }
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn panic_is_an_internal_error_and_the_repeat_has_one_effect() {
    let rig = Rig::new().await;
    let worker = rig.launch_with_fault(&with(&[]), "ingress.confirmed:1:PANIC");
    let caller = Caller::of(&worker).await;
    let answer = caller.start("run-1", &event(1)).await;
    assert_eq!((answer.status, answer.problem(&rig).as_str()), (500, "internal"));
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(caller.start("run-1", &event(1)).await.status, 202);
    assert_eq!(caller.start("run-2", &event(2)).await.status, 202);
    assert_eq!(rig.guest_links().await.take(2).await.len(), 2);
    rig.until_experts_have(2).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().messages, 2);
}

#[tokio::test]
async fn request_while_the_ledger_is_away_follows_the_setting() {
    for (on_failure, status) in [("wait", 503), ("continue", 202)] {
        let mut redis = RedisServer::start();
        let url = redis.url();
        let settings = [
            ("ledger.kind", "redis"),
            ("ledger.url", url.expose_secret()),
            ("ledger.on_failure", on_failure),
        ];
        let rig = Rig::new().await;
        let worker = rig.start(&with(&settings)).await;
        let (caller, admin) = (Caller::of(&worker).await, Admin::of(&worker).await);
        redis.kill();
        let answer = caller.start("run-1", &event_with(1, &json!({}))).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(admin.series().await[r#"ingress_ledger_failures_total{route="sessions"}"#], "1");
        if status == 503 {
            assert_eq!(answer.problem(&rig), "unavailable");
            assert!(answer.text.contains("the same key is safe"));
            assert_eq!(answer.header("retry-after"), "5");
        }
        redis.restart();
        let answer = caller.start("run-1", &event_with(1, &json!({}))).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        rig.guest_links().await.next().await;
        rig.until_experts_have(1).await;
        worker.stop().await;
    }
}
