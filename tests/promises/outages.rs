//! Failures of Webex are waited out, retried, or dead-lettered with their reason; they never lead to a wrong link.

use std::{collections::HashSet, sync::Arc, time::Duration};

use instant_connect_sandbox::{Endpoint, Handle, RecordedCall, RecordedRole};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use testkit::{
    Rig,
    amqp::{Received, with_id},
    events::{DEVICE, SPACE, event_with, number},
    poll,
    rig::{NEW_TOKEN, TOKEN},
    soon,
};

/// Logged once when the breaker opens.
const OPENED: &str = "breaker opened; consuming paused (attempts are not counted while it is open)";

/// Short delays and few attempts.
const QUICK: [(&str, &str); 5] = [
    ("retry.initial", "10ms"),
    ("retry.max", "50ms"),
    ("retry.attempts", "3"),
    ("retry.jitter", "0"),
    ("retry.delays", "10ms,50ms,1s,5s"),
];

fn quick<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    QUICK.iter().chain(more).copied().collect()
}

fn fault(rig: &Rig, rule: &str) {
    rig.sandbox.fault(rule.parse().unwrap());
}

fn assert_guest_role(sandbox: &Handle, link: &Received) {
    let short = link.json()["short"].as_str().unwrap().to_owned();
    assert_eq!(sandbox.link(&short).unwrap().role, RecordedRole::Guest);
}

#[tokio::test]
async fn api_that_fails_twice_is_called_a_third_time() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[])).await;
    fault(&rig, "joseencrypt:status=503,times=2");
    fault(&rig, "messages:status=503,times=2");
    rig.publish(1).await;
    rig.guest_links().await.next().await;
    rig.until_experts_have(1).await;
    let counts = rig.sandbox.counts();
    // A 503 does not tell what happened behind a gateway, so the sent messages are listed before the next attempt.
    // The second fault applies to that list request.
    assert_eq!((counts.joseencrypt, counts.message_requests, counts.messages), (3, 4, 1));
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
}

#[tokio::test]
async fn retry_after_is_honoured_and_not_counted_as_attempt() {
    let rig = Rig::new().await;
    // With one attempt, a counted response would dead-letter the event.
    let worker = rig.start(&quick(&[("retry.attempts", "1")])).await;
    fault(&rig, "joseencrypt:status=429,retry-after=2,times=2");
    fault(&rig, "messages:status=429,retry-after=2,times=1");
    rig.publish(1).await;
    rig.guest_links().await.next().await;
    rig.until_experts_have(1).await;
    for (endpoint, requests) in [(Endpoint::JoseEncrypt, 3), (Endpoint::Messages, 2)] {
        let arrivals = rig.sandbox.arrivals(endpoint);
        assert_eq!(arrivals.len(), requests);
        assert!(arrivals.windows(2).all(|pair| pair[1].at - pair[0].at >= Duration::from_secs(2)));
    }
    worker.stop().await;
}

#[tokio::test]
async fn retry_after_as_a_date_is_honoured() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[])).await;
    let at = Timestamp::from_second(Timestamp::now().as_second() + 3).unwrap();
    let date = at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    // The text form of rules allows no commas, so the rule is built here.
    let code = 429;
    let fault = instant_connect_sandbox::Fault::Status { code, retry_after: Some(date) };
    let times = instant_connect_sandbox::Frequency::Times(1);
    let endpoint = Endpoint::JoseEncrypt;
    rig.sandbox.fault(instant_connect_sandbox::FaultRule { endpoint, fault, times });
    rig.publish(1).await;
    rig.guest_links().await.next().await;
    assert!(rig.sandbox.calls()[0].at >= at, "not before the date");
    worker.stop().await;
}

#[tokio::test]
async fn session_with_several_calls_resumes_at_the_failed_call() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[("devices.allowed", DEVICE), ("retry.attempts", "2")])).await;
    // The first call succeeds, the second one only at its third attempt.
    for rule in ["delay=1ms,times=1", "status=503,times=1", "status=429,retry-after=1,times=1"] {
        fault(&rig, &format!("joseencrypt:{rule}"));
    }
    let people: Vec<_> = (0..30).map(|n| json!({"channel": "sms", "address": number(n)})).collect();
    let fields = json!({"guests": people, "devices": [DEVICE]});
    rig.publish_event(with_id("event-1"), &event_with(1, &fields)).await;
    let mut guests = rig.guest_links().await;
    let links = guests.take(30).await;
    assert_eq!(rig.sandbox.requests(Endpoint::JoseEncrypt), 4);
    let asked = |calls: &[RecordedCall]| -> Vec<_> {
        calls.iter().map(|call| (call.hosts, call.guests, call.devices.len())).collect()
    };
    let calls = rig.sandbox.calls();
    assert_eq!(asked(&calls), [(1, 24, 1), (0, 6, 0)]);
    assert_eq!(calls[0].exp, calls[1].exp, "all links expire at the same time");
    let ends: HashSet<_> = links.iter().map(|link| link.json()["expiresAt"].to_string()).collect();
    assert_eq!(ends.len(), 1);

    // A replayed dead letter resumes there too.
    fault(&rig, "joseencrypt:delay=1ms,times=1");
    fault(&rig, "joseencrypt:status=400,times=1");
    rig.publish_event(with_id("event-2"), &event_with(2, &fields)).await;
    let dead = rig.name("sessions.dead");
    poll("a dead letter", async || rig.amqp.depth(&dead).await.filter(|(ready, _)| *ready == 1)).await;
    let replayed = rig.command(&["dead", "replay", "--yes", "--queue", "sessions"], &[]).await;
    assert_eq!(replayed.status, Some(0), "{replayed:?}");
    guests.take(30).await;
    assert_eq!(asked(&rig.sandbox.calls()[2..]), [(1, 24, 1), (0, 6, 0)]);
    worker.stop().await;
}

#[tokio::test]
async fn request_refused_by_the_api_is_dead_lettered_at_once() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[])).await;
    fault(&rig, "joseencrypt:status=400,times=1");
    rig.publish(1).await;
    let letter = rig.dead_letters("sessions").await.next().await;
    assert_eq!(letter.header("x-dead-class"), "rejected");
    assert!(letter.header("x-dead-reason").starts_with("Instant Connect responded with 400, tracking id "));
    fault(&rig, "messages:status=404,times=1");
    rig.publish(2).await;
    let letter = rig.dead_letters("hosts").await.next().await;
    assert_eq!(letter.header("x-dead-class"), "rejected");
    assert!(letter.header("x-dead-reason").starts_with("Webex Messages responded with 404"));
    let counts = rig.sandbox.counts();
    assert_eq!((counts.joseencrypt, counts.message_requests), (2, 1));
    worker.stop().await;
}

#[tokio::test]
async fn malformed_response_is_discarded_and_the_call_repeated() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[])).await;
    let mut guests = rig.guest_links().await;
    let faults = [
        ("garbage", "malformed response: body: invalid JSON"),
        ("empty", "malformed response: body: invalid JSON"),
        ("huge=2", "malformed response: more than 1048576 bytes"),
        ("cut=body", "the response was cut off"),
        ("cut=before", "the connection failed during the call"),
        ("status=302", "responded with 302"),
        ("wrong-shape=fewer-guests", "0 guest links, but 1 requested"),
        ("wrong-shape=http-base", "baseUrl is not in instant_connect.allowed_base_urls"),
        ("wrong-shape=foreign-base", "baseUrl is not in instant_connect.allowed_base_urls"),
        ("wrong-shape=host-as-guest", "duplicate link"),
        ("wrong-shape=missing-short", "baseUrl is present, but a link has no short"),
    ];
    for (n, (name, reason)) in faults.into_iter().enumerate() {
        let before = rig.sandbox.requests(Endpoint::JoseEncrypt);
        fault(&rig, &format!("joseencrypt:{name},times=1"));
        rig.publish(100 + n).await;
        let link = guests.next().await;
        assert_eq!(link.json()["sessionId"], format!("visit-{}", 100 + n));
        assert_guest_role(&rig.sandbox, &link);
        assert_eq!(rig.sandbox.requests(Endpoint::JoseEncrypt) - before, 2, "{name}");
        let said = worker.output.logged("retry scheduled")[n]["reason"].to_string();
        assert!(said.contains(reason), "{name}: {said}");
    }
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await.unwrap().0, 0, "no further guest links");
    worker.stop().await;
}

#[tokio::test]
async fn hanging_call_times_out_and_is_repeated() {
    let rig = Rig::new().await;
    // Long enough for an answered call on a busy machine.
    let limits = [("instant_connect.timeout", "3s"), ("hosts.timeout", "3s")];
    let worker = rig.start(&quick(&limits)).await;
    fault(&rig, "joseencrypt:hang,times=1");
    fault(&rig, "messages:hang,times=1");
    rig.publish(1).await;
    rig.guest_links().await.next().await;
    rig.until_experts_have(1).await;
    let counts = rig.sandbox.counts();
    // Sent, listed, sent again.
    assert_eq!((counts.joseencrypt, counts.message_requests), (2, 3));
    worker.output.until("no response within the time limit", 2).await;
    worker.stop().await;
}

#[tokio::test]
async fn unreadable_success_is_verified_before_the_message_is_resent() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[("hosts.body_bytes_max", "65536")])).await;
    // Each fault occurs after the message was sent.
    let faults = ["garbage", "empty", "huge=1", "cut=body"];
    for (n, name) in faults.into_iter().enumerate() {
        fault(&rig, &format!("messages:{name},times=1"));
        rig.publish(n).await;
        let looked =
            rig.sandbox.until(move |sandbox| sandbox.requests(Endpoint::Messages) == 2 * (n as u64 + 1));
        soon("a list request", looked).await;
    }
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    let counts = rig.sandbox.counts();
    assert_eq!(
        (counts.messages, counts.message_requests),
        (4, 8),
        "each message was sent once and listed once"
    );
}

#[tokio::test]
async fn refused_token_pauses_consuming_until_the_file_has_a_new_one() {
    let rig = Rig::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    rig.sandbox.set_token(NEW_TOKEN.into());
    let settings = [
        ("instant_connect.token", ""),
        ("instant_connect.token_file", file.to_str().unwrap()),
        ("breaker.probe_initial", "10ms"),
        ("breaker.probe_max", "20ms"),
        ("amqp.prefetch", "4"),
    ];
    let worker = rig.start(&quick(&settings)).await;
    rig.publish(0).await;
    worker.output.until("breaker opened", 1).await;
    rig.publish_many(1..=20).await;
    let before = rig.sandbox.requests(Endpoint::JoseEncrypt);
    let probes = rig.sandbox.until(|sandbox| sandbox.requests(Endpoint::JoseEncrypt) >= before + 20);
    soon("twenty probes", probes).await;
    // The events take turns, one call each, and no attempt is counted.
    let held = worker.output.logged("deferred; attempt not counted");
    assert!(held.len() >= 20 && held.iter().all(|one| one["attempt"] == 1), "{held:?}");
    assert!(worker.output.logged("dead-lettered").is_empty());

    std::fs::write(&file, format!("{NEW_TOKEN}\n")).unwrap();
    rig.guest_links().await.take(21).await;
    rig.until_experts_have(21).await;
    assert_eq!(worker.output.logged(OPENED).len(), 1);
    worker.output.until("breaker closed", 1).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().calls, 21);
}

#[tokio::test]
async fn refused_messages_token_delays_host_links_but_not_guest_links() {
    let rig = Rig::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, NEW_TOKEN).unwrap();
    let settings = [
        ("hosts.token_file", file.to_str().unwrap()),
        ("breaker.probe_initial", "10ms"),
        ("breaker.probe_max", "20ms"),
    ];
    let worker = rig.start(&quick(&settings)).await;
    let mut guests = rig.guest_links().await;
    rig.publish(1).await;
    guests.next().await;
    worker.output.until("breaker opened", 1).await;
    rig.publish(2).await;
    assert_eq!(guests.next().await.json()["sessionId"], "visit-2", "the link stage continues");
    assert_eq!(rig.sandbox.counts().messages, 0);
    std::fs::write(&file, TOKEN).unwrap();
    rig.until_experts_have(2).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
}

#[tokio::test]
async fn call_forbidden_by_403_counts_no_attempt() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[("breaker.probe_initial", "10ms"), ("breaker.probe_max", "20ms")])).await;
    fault(&rig, "joseencrypt:status=403,times=8");
    rig.publish(1).await;
    rig.guest_links().await.next().await;
    rig.until_experts_have(1).await;
    assert_eq!(rig.sandbox.counts().joseencrypt, 9);
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
}

#[tokio::test]
async fn outage_of_the_messages_api_sends_no_duplicates() {
    let rig = Rig::new().await;
    // With few attempts, failures that are counted while the breaker is open would dead-letter the events.
    let settings = [
        ("retry.attempts", "2"),
        ("breaker.failures", "1"),
        ("breaker.probe_initial", "10ms"),
        ("breaker.probe_max", "20ms"),
    ];
    let worker = rig.start(&quick(&settings)).await;
    fault(&rig, "messages:cut=before");
    rig.publish_many(0..10).await;
    let refused = rig.sandbox.until(|sandbox| sandbox.requests(Endpoint::Messages) >= 50);
    soon("fifty requests", refused).await;
    rig.sandbox.clear_faults();
    rig.until_experts_have(10).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().messages, 10);
}

#[tokio::test]
async fn session_that_ends_during_an_outage_is_expired() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[("retry.attempts", "1000"), ("retry.max", "100ms")])).await;
    fault(&rig, "joseencrypt:status=503");
    let expires_at = Timestamp::from_second(Timestamp::now().as_second() + 3).unwrap();
    rig.publish_event(with_id("event-1"), &event_with(1, &json!({"expiresAt": expires_at.to_string()})))
        .await;
    let letter = rig.dead_letters("sessions").await.next().await;
    assert_eq!(letter.header("x-dead-class"), "expired", "{}", letter.header("x-dead-reason"));
    // A Retry-After beyond the session's end expires the event at once.
    rig.sandbox.clear_faults();
    fault(&rig, "joseencrypt:status=429,retry-after=3600");
    let before = rig.sandbox.requests(Endpoint::JoseEncrypt);
    let soon_over = (Timestamp::now() + SignedDuration::from_mins(30)).to_string();
    rig.publish_event(with_id("event-2"), &event_with(2, &json!({"expiresAt": soon_over}))).await;
    let letter = rig.dead_letters("sessions").await.next().await;
    assert_eq!((letter.id().as_str(), letter.header("x-dead-class").as_str()), ("event-2", "expired"));
    assert_eq!(rig.sandbox.requests(Endpoint::JoseEncrypt), before + 1);
    worker.stop().await;
}

/// A hanging call near the end of its session is no sign of an outage: it had less time than
/// `instant_connect.timeout`.
#[tokio::test]
async fn call_cut_off_by_session_end_is_not_an_api_failure() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[("breaker.failures", "1")])).await;
    fault(&rig, "joseencrypt:hang,times=1");
    let expires_at = Timestamp::from_second(Timestamp::now().as_second() + 3).unwrap();
    rig.publish_event(with_id("event-1"), &event_with(1, &json!({"expiresAt": expires_at.to_string()})))
        .await;
    let letter = rig.dead_letters("sessions").await.next().await;
    assert_eq!(letter.header("x-dead-class"), "expired", "{}", letter.header("x-dead-reason"));
    assert!(letter.header("x-dead-reason").contains("no response before the session deadline"));
    assert!(worker.output.logged(OPENED).is_empty(), "the breaker stays closed");
    let metrics = Arc::clone(&worker.metrics);
    worker.stop().await;
    assert_eq!(rig.sandbox.requests(Endpoint::JoseEncrypt), 1);
    let metrics = metrics.text();
    for (result, calls) in [("abandoned", 1), ("unavailable", 0)] {
        let family = "instant_connect_upstream_call_duration_seconds_count";
        let line = format!("{family}{{result=\"{result}\",upstream=\"instant_connect\"}} {calls}");
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
}

/// An expert with many earlier messages: the list is longer than the read limit.
#[tokio::test]
async fn long_message_list_is_read_from_its_beginning() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[("hosts.body_bytes_max", "65536")])).await;
    let experts = json!({"experts": [{"email": "winnifred-1@example.com"}]});
    for n in 0..45 {
        rig.publish_event(with_id(&format!("event-{n}")), &event_with(n, &experts)).await;
    }
    rig.until_experts_have(45).await;
    fault(&rig, "messages:cut=body,times=1");
    rig.publish_event(with_id("event-45"), &event_with(45, &experts)).await;
    let looked = rig.sandbox.until(|sandbox| sandbox.requests(Endpoint::Messages) == 47);
    soon("a list request", looked).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    let counts = rig.sandbox.counts();
    assert_eq!((counts.messages, counts.message_requests), (46, 47));
}

/// Starts a session whose expert waits in a space, with `faults` of the Messages API in this order.
async fn session_in_a_space(faults: &[&str]) -> (Rig, testkit::program::Program) {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[("retry.attempts", "20"), ("breaker.failures", "100")])).await;
    for rule in faults {
        fault(&rig, &format!("messages:{rule},times=1"));
    }
    let experts = json!({"experts": [{"roomId": SPACE}]});
    rig.publish_event(with_id("event-1"), &event_with(1, &experts)).await;
    (rig, worker)
}

/// Webex does not tell a bot what it has sent to a space.
#[tokio::test]
async fn message_to_a_space_that_may_have_been_sent_is_sent_three_times_at_most() {
    // A delay stands for no fault: it applies to the request between two messages.
    let (rig, worker) =
        session_in_a_space(&["cut=body", "delay=1ms", "cut=body", "delay=1ms", "cut=body"]).await;
    let letter = rig.dead_letters("hosts").await.next().await;
    assert_eq!(letter.header("x-dead-class"), "exhausted");
    let reason = letter.header("x-dead-reason");
    assert!(reason.contains("may have been sent 3 times"), "{reason}");
    worker.stop().await;
    let counts = rig.sandbox.counts();
    assert_eq!((counts.messages, counts.message_requests), (3, 6));
}

/// A 503 with `Retry-After` says that the request was not processed.
#[tokio::test]
async fn refusals_for_now_do_not_use_up_the_messages_to_a_space() {
    let (rig, worker) = session_in_a_space(&["status=503,retry-after=1"; 4]).await;
    rig.until_experts_have(1).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    let counts = rig.sandbox.counts();
    assert_eq!((counts.messages, counts.message_requests), (1, 5), "no request looks for the message");
}

#[tokio::test]
async fn outage_does_not_use_up_the_messages_to_a_space() {
    let down = ["cut=body", "status=503", "cut=before", "garbage", "page=200"];
    let (rig, worker) = session_in_a_space(&down).await;
    rig.until_experts_have(2).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    // Two messages, and a request that failed for each other fault, and one that did not.
    let counts = rig.sandbox.counts();
    assert_eq!((counts.messages, counts.message_requests), (2, 7));
}
