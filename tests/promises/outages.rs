//! What goes wrong at Webex is waited out, tried again, or given up with its reason; never answered with a wrong link.

use std::{collections::HashSet, sync::Arc, time::Duration};

use instant_connect_worker::sandbox::{Endpoint, Handle, RecordedCall, RecordedRole};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::support::{
    Rig,
    amqp::{Received, with_id},
    events::{DEVICE, event_with, number},
    poll,
    rig::{NEW_TOKEN, TOKEN},
    soon,
};

/// Said once when the taking of messages stops.
const OPENED: &str = "breaker opened; consuming paused (attempts are not counted while it is open)";

/// Short waits, and no more attempts than a test has patience for.
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
async fn an_api_that_fails_twice_is_asked_a_third_time() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[])).await;
    fault(&rig, "joseencrypt:status=503,times=2");
    fault(&rig, "messages:status=503,times=2");
    rig.publish(1).await;
    rig.guest_links().await.next().await;
    rig.until_experts_have(1).await;
    let counts = rig.sandbox.counts();
    // A 503 says nothing of what lies behind a gateway: the message is looked for before it is sent again, and the second
    // fault met that look.
    assert_eq!((counts.joseencrypt, counts.message_requests, counts.messages), (3, 4, 1));
    worker.stop().await;
    rig.assert_all_is_done(&rig.amqp).await;
}

#[tokio::test]
async fn a_retry_after_is_never_undercut_and_costs_no_attempt() {
    let rig = Rig::new().await;
    // With one attempt, an answer that counted would be the end.
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
async fn a_retry_after_in_the_form_of_a_date_is_never_undercut() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[])).await;
    let at = Timestamp::from_second(Timestamp::now().as_second() + 3).unwrap();
    let date = at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    // The written form has no commas, so the rule is made by hand.
    let code = 429;
    let fault = instant_connect_worker::sandbox::Fault::Status { code, retry_after: Some(date) };
    let times = instant_connect_worker::sandbox::Frequency::Times(1);
    let endpoint = Endpoint::JoseEncrypt;
    rig.sandbox.fault(instant_connect_worker::sandbox::FaultRule { endpoint, fault, times });
    rig.publish(1).await;
    rig.guest_links().await.next().await;
    assert!(rig.sandbox.calls()[0].at >= at, "not before the date");
    worker.stop().await;
}

#[tokio::test]
async fn more_people_than_one_call_serves_go_on_from_the_call_that_failed() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[("devices.allowed", DEVICE), ("retry.attempts", "2")])).await;
    // The first call works, the second not before the fourth time.
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
    assert_eq!(calls[0].exp, calls[1].exp, "the links end together");
    let ends: HashSet<_> = links.iter().map(|link| link.json()["expiresAt"].to_string()).collect();
    assert_eq!(ends.len(), 1);

    // What is dead goes on from there, too, when it is replayed.
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
async fn what_the_api_refuses_for_good_is_dead_at_once() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[])).await;
    fault(&rig, "joseencrypt:status=400,times=1");
    rig.publish(1).await;
    let letter = rig.dead_letters("sessions").await.next().await;
    assert_eq!(letter.header("x-dead-class"), "rejected");
    assert!(letter.header("x-dead-reason").starts_with("Instant Connect answered 400, tracking id "));
    fault(&rig, "messages:status=404,times=1");
    rig.publish(2).await;
    let letter = rig.dead_letters("hosts").await.next().await;
    assert_eq!(letter.header("x-dead-class"), "rejected");
    assert!(letter.header("x-dead-reason").starts_with("Webex Messages answered 404"));
    let counts = rig.sandbox.counts();
    assert_eq!((counts.joseencrypt, counts.message_requests), (2, 1));
    worker.stop().await;
}

#[tokio::test]
async fn no_malformed_answer_is_believed_and_each_is_asked_for_again() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[])).await;
    let mut guests = rig.guest_links().await;
    let faults = [
        ("garbage", "malformed response: body: invalid JSON"),
        ("empty", "malformed response: body: invalid JSON"),
        ("huge=2", "malformed response: more than 1048576 bytes"),
        ("cut=body", "the response was cut off"),
        ("cut=before", "the connection failed during the call"),
        ("status=302", "answered 302"),
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
        let said = worker.output.saying("retry scheduled")[n]["reason"].to_string();
        assert!(said.contains(reason), "{name}: {said}");
    }
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await.unwrap().0, 0, "nobody got a wrong link");
    worker.stop().await;
}

#[tokio::test]
async fn a_call_that_hangs_is_given_up_and_made_again() {
    let rig = Rig::new().await;
    // Long enough for a call that is answered, on a machine that is busy.
    let limits = [("instant_connect.timeout", "3s"), ("hosts.timeout", "3s")];
    let worker = rig.start(&quick(&limits)).await;
    fault(&rig, "joseencrypt:hang,times=1");
    fault(&rig, "messages:hang,times=1");
    rig.publish(1).await;
    rig.guest_links().await.next().await;
    rig.until_experts_have(1).await;
    let counts = rig.sandbox.counts();
    // Sent, looked for, sent again.
    assert_eq!((counts.joseencrypt, counts.message_requests), (2, 3));
    worker.output.until("no response within the time limit", 2).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_success_that_cannot_be_read_is_looked_for_before_it_is_repeated() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[("hosts.body_bytes_max", "65536")])).await;
    // Each of these comes after the message was sent.
    let faults = ["garbage", "empty", "huge=1", "cut=body"];
    for (n, name) in faults.into_iter().enumerate() {
        fault(&rig, &format!("messages:{name},times=1"));
        rig.publish(n).await;
        let looked =
            rig.sandbox.until(move |sandbox| sandbox.requests(Endpoint::Messages) == 2 * (n as u64 + 1));
        soon("a look", looked).await;
    }
    worker.stop().await;
    rig.assert_all_is_done(&rig.amqp).await;
    let counts = rig.sandbox.counts();
    assert_eq!((counts.messages, counts.message_requests), (4, 8), "sent once, and looked for");
}

#[tokio::test]
async fn a_refused_token_stops_the_taking_of_events_until_a_new_one_is_in_its_file() {
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
    // They take turns, one call each, and nothing is counted against them.
    let held = worker.output.saying("deferred; attempt not counted");
    assert!(held.len() >= 20 && held.iter().all(|one| one["attempt"] == 1), "{held:?}");
    assert!(worker.output.saying("dead-lettered").is_empty());

    std::fs::write(&file, format!("{NEW_TOKEN}\n")).unwrap();
    rig.guest_links().await.take(21).await;
    rig.until_experts_have(21).await;
    assert_eq!(worker.output.saying(OPENED).len(), 1);
    worker.output.until("breaker closed", 1).await;
    worker.stop().await;
    rig.assert_all_is_done(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().calls, 21);
}

#[tokio::test]
async fn a_refused_token_for_messages_holds_the_experts_links_and_not_the_guests() {
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
    assert_eq!(guests.next().await.json()["sessionId"], "visit-2", "the guests' stage goes on");
    assert_eq!(rig.sandbox.counts().messages, 0);
    std::fs::write(&file, TOKEN).unwrap();
    rig.until_experts_have(2).await;
    worker.stop().await;
    rig.assert_all_is_done(&rig.amqp).await;
}

#[tokio::test]
async fn a_forbidden_call_counts_against_no_event() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[("breaker.probe_initial", "10ms"), ("breaker.probe_max", "20ms")])).await;
    fault(&rig, "joseencrypt:status=403,times=8");
    rig.publish(1).await;
    rig.guest_links().await.next().await;
    rig.until_experts_have(1).await;
    assert_eq!(rig.sandbox.counts().joseencrypt, 9);
    worker.stop().await;
    rig.assert_all_is_done(&rig.amqp).await;
}

#[tokio::test]
async fn an_outage_of_the_messages_api_ends_with_one_message() {
    let rig = Rig::new().await;
    // With one attempt, a failure that counted while the breaker is open would be the end.
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
    rig.assert_all_is_done(&rig.amqp).await;
    assert_eq!(rig.sandbox.counts().messages, 10);
}

#[tokio::test]
async fn a_session_that_is_over_before_the_api_is_back_expires() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[("retry.attempts", "1000"), ("retry.max", "100ms")])).await;
    fault(&rig, "joseencrypt:status=503");
    let expires_at = Timestamp::from_second(Timestamp::now().as_second() + 3).unwrap();
    rig.publish_event(with_id("event-1"), &event_with(1, &json!({"expiresAt": expires_at.to_string()})))
        .await;
    let letter = rig.dead_letters("sessions").await.next().await;
    assert_eq!(letter.header("x-dead-class"), "expired", "{}", letter.header("x-dead-reason"));
    // Where a Retry-After leads beyond the session's end, nothing is waited for.
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

/// A hanging call of a session that is nearly over says nothing of the API, which has `instant_connect.timeout` to answer.
#[tokio::test]
async fn a_call_that_the_sessions_end_cuts_off_is_no_failure_of_the_api() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[("breaker.failures", "1")])).await;
    fault(&rig, "joseencrypt:hang,times=1");
    let expires_at = Timestamp::from_second(Timestamp::now().as_second() + 3).unwrap();
    rig.publish_event(with_id("event-1"), &event_with(1, &json!({"expiresAt": expires_at.to_string()})))
        .await;
    let letter = rig.dead_letters("sessions").await.next().await;
    assert_eq!(letter.header("x-dead-class"), "expired", "{}", letter.header("x-dead-reason"));
    assert!(letter.header("x-dead-reason").contains("no response before the session deadline"));
    assert!(worker.output.saying(OPENED).is_empty(), "the breaker stays closed");
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

/// An expert who had many messages before: the list of them is longer than what is read.
#[tokio::test]
async fn a_look_at_a_long_list_reads_its_beginning() {
    let rig = Rig::new().await;
    let worker = rig.start(&quick(&[("hosts.body_bytes_max", "16384")])).await;
    let experts = json!({"experts": [{"email": "winnifred-1@example.com"}]});
    for n in 0..20 {
        rig.publish_event(with_id(&format!("event-{n}")), &event_with(n, &experts)).await;
    }
    rig.until_experts_have(20).await;
    fault(&rig, "messages:cut=body,times=1");
    rig.publish_event(with_id("event-20"), &event_with(20, &experts)).await;
    let looked = rig.sandbox.until(|sandbox| sandbox.requests(Endpoint::Messages) == 22);
    soon("a look", looked).await;
    worker.stop().await;
    rig.assert_all_is_done(&rig.amqp).await;
    let counts = rig.sandbox.counts();
    assert_eq!((counts.messages, counts.message_requests), (21, 22));
}
