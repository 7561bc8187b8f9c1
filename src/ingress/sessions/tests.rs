use std::sync::Mutex;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;
use tokio::time::{advance, sleep};

use super::*;
use crate::{
    broker::publisher::PublishJobs,
    clock::TimeOfDay,
    config::{Sources, load},
    ledger::memory::Memory,
    telemetry::metrics::Metrics,
};

#[test]
fn event_ids_of_clients_keys_and_bodies_do_not_overlap_and_stay_fixed() {
    let of = |client, key, event| event_id(client, key, event, b"{}");
    let all = [
        of("a", Some("k"), None),
        of("b", Some("k"), None),
        of("a", Some("l"), None),
        of("a", None, Some("k")),
        of("a", None, None),
        event_id("a", None, None, b"{} "),
    ];
    for (position, id) in all.iter().enumerate() {
        assert!(!all[..position].contains(id));
    }
    assert_eq!(of("a", Some("k"), Some("other")), all[0], "the key comes first");
    assert_eq!(of("b", None, None), all[4], "one body is one event of the organisation");
    // Pinned, because a repeat may come after an update.
    assert_eq!(all[0].to_string(), "431a9ac2-a5b7-53ac-8ac8-eef8e6d1febd");
}

/// The time of day that passes with the runtime's paused time.
#[derive(Debug)]
struct RuntimeTime(Timestamp, Instant);

impl TimeOfDay for RuntimeTime {
    fn now(&self) -> Timestamp {
        self.0 + SignedDuration::try_from(self.1.elapsed()).unwrap()
    }

    fn steady(&self) -> Timestamp {
        self.now()
    }
}

fn events() -> (StartEvents, PublishJobs) {
    let loaded = load(&Sources::default()).unwrap();
    let clock = Clock::of(RuntimeTime(Timestamp::now(), Instant::now()));
    let (publisher, jobs) = Publisher::queue();
    let events = StartEvents {
        publisher,
        exchange: "sessions".to_owned(),
        ledger: Ledger::over(Arc::new(Memory::new(clock.clone())), clock.clone()),
        clock,
        without_ledger: false,
        rules: loaded.config.session_rules(),
        margin: SignedDuration::from_hours(1),
        tracer: Tracer::default(),
        metrics: Metrics::off().ingress(),
    };
    (events, jobs)
}

/// Confirms what is published, and keeps the ids.
fn confirm(mut jobs: PublishJobs) -> Arc<Mutex<Vec<String>>> {
    let ids = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ids);
    tokio::spawn(async move {
        while let Some(job) = jobs.recv().await {
            let id = job.publication.properties.message_id().as_ref().unwrap().as_str().to_owned();
            seen.lock().unwrap().push(id);
            _ = job.reply.send(Ok(()));
        }
    });
    ids
}

async fn accept(events: &StartEvents, key: Option<&str>) -> Result<AcceptedBody, ProblemKind> {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    if let Some(key) = key {
        headers.insert(HeaderName::from_static("idempotency-key"), HeaderValue::from_str(key).unwrap());
    }
    let head = StartHead::read(&headers, false).unwrap();
    let body = json!({
        "sessionId": "visit-1",
        "guests": [{"channel": "sms", "address": "+14155550123"}],
        "experts": [{"email": "expert@example.com"}]
    });
    let deadline = Instant::now() + super::super::service::REQUEST_MAX;
    let body = body.to_string().into_bytes();
    let request = StartRequest { client: "flows".to_owned(), head, body, deadline };
    let accepted = events.accept(request, &mut RequestLog::default()).await;
    assert!(Instant::now() < deadline, "answered in time");
    accepted.map_err(|problem| problem.kind)
}

/// After that, the same body asks for a new session of the same people.
#[tokio::test(start_paused = true)]
async fn request_without_a_key_is_a_repeat_as_long_as_the_stage_remembers_its_event() {
    const MINUTES: u64 = 60;
    // Links live for two hours, and the stage remembers them for another hour.
    for (key, remembered) in [(None, 180), (Some("run-1"), 24 * 60)] {
        let (events, jobs) = events();
        let published = confirm(jobs);
        assert!(!accept(&events, key).await.unwrap().replayed);
        advance(Duration::from_secs((remembered - 1) * MINUTES)).await;
        assert!(accept(&events, key).await.unwrap().replayed);
        advance(Duration::from_secs(2 * MINUTES)).await;
        assert!(!accept(&events, key).await.unwrap().replayed);
        let published = published.lock().unwrap();
        assert_eq!(published.len(), 2, "{key:?}");
        assert_eq!(published[0], published[1], "the same id");
    }
}

#[tokio::test(start_paused = true)]
async fn silent_broker_is_answered_in_time_and_the_repeat_is_published_again() {
    let (events, mut jobs) = events();
    assert_eq!(accept(&events, Some("run-1")).await.unwrap_err(), ProblemKind::Unavailable);
    let given_up = jobs.recv().await.unwrap();
    assert!(given_up.reply.is_closed(), "the publisher leaves it out");
    let published = confirm(jobs);
    assert!(!accept(&events, Some("run-1")).await.unwrap().replayed);
    let first = given_up.publication.properties.message_id().clone();
    assert_eq!(published.lock().unwrap()[0], first.unwrap().as_str());
}

#[tokio::test(start_paused = true)]
async fn repeat_waits_for_the_request_in_flight() {
    let (events, mut jobs) = events();
    let slow = async {
        let job = jobs.recv().await.unwrap();
        sleep(Duration::from_secs(3)).await;
        job.reply.send(Ok(())).unwrap();
    };
    let repeat = async {
        sleep(Duration::from_millis(1)).await;
        accept(&events, Some("run-1")).await
    };
    let (first, repeat, ()) = tokio::join!(accept(&events, Some("run-1")), repeat, slow);
    assert_eq!((first.unwrap().replayed, repeat.unwrap().replayed), (false, true));

    let late = async {
        sleep(Duration::from_millis(1)).await;
        accept(&events, Some("run-2")).await
    };
    let (first, late) = tokio::join!(accept(&events, Some("run-2")), late);
    assert_eq!(first.unwrap_err(), ProblemKind::Unavailable, "nobody confirms it");
    assert_eq!(late.unwrap_err(), ProblemKind::InFlight);
}
