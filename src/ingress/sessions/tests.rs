use jiff::SignedDuration;
use tokio::sync::mpsc;

use super::*;
use crate::state::RaisedFlag;
use crate::{
    broker::publisher::PublishJob,
    contract::start_session::Vertical,
    ingress::{clients::Clients, config::ClientScope},
    ledger::LedgerKind,
    telemetry::metrics::Metrics,
};

const ANA: &str = r#"{"sessionId":"visit-1","guests":[{"channel":"sms","address":"+34600111222"}],"experts":[{"email":"expert@example.com"}]}"#;

/// Start events, the jobs of the publisher, and a connection that is up.
async fn events() -> (StartEvents, mpsc::Receiver<PublishJob>, RaisedFlag) {
    let (publisher, jobs) = Publisher::simulated();
    let rules = SessionRules {
        subject_prefix: String::new(),
        vertical: Vertical::Hc,
        host_login: true,
        link_lifetime: SignedDuration::from_hours(2),
        devices: serde_json::from_str("[]").unwrap(),
    };
    let events = StartEvents {
        publisher,
        publishing: PublishState::default(),
        room: Arc::new(Semaphore::new(2 * ANA.len() + 50)),
        exchange: "sessions".to_owned(),
        ledger: Ledger::open(LedgerKind::Memory).await.unwrap(),
        without_ledger: false,
        rules,
        tracer: Tracer::default(),
        metrics: Metrics::off().ingress(),
    };
    let up = events.publishing.connection.up();
    (events, jobs, up)
}

fn request_of(client: &Arc<Client>, key: &str, body: &str) -> StartRequest {
    client.count().unwrap();
    let mut headers = axum::http::HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    headers.insert("idempotency-key", key.parse().unwrap());
    StartRequest {
        client: Arc::clone(client),
        head: StartHead::read(&headers, true).unwrap(),
        body: body.as_bytes().to_vec(),
        deadline: Instant::now() + Duration::from_secs(8),
    }
}

fn request(key: &str, body: &str) -> StartRequest {
    request_of(&flows(1000), key, body)
}

/// A client with this burst.
fn flows(burst: u32) -> Arc<Client> {
    let token = "icw_token-of-the-flows-1";
    let config = serde_json::json!({
        "token_file": "", "token": token, "token_sha256": "", "scopes": ["start"],
        "rate": 1, "burst": burst, "allowed_addresses": []
    });
    let clients = [("flows".to_owned(), serde_json::from_value(config).unwrap())].into();
    let clients = Clients::open(&clients, 2).unwrap();
    let authorization = format!("Bearer {token}");
    let address = "127.0.0.1".parse().unwrap();
    Arc::clone(clients.admit(Some(authorization.as_bytes()), address, ClientScope::Start).unwrap())
}

async fn accept(events: &StartEvents, request: StartRequest) -> Result<AcceptedBody, HttpProblem> {
    events.accept(request, &mut RequestLog::begin(Instant::now())).await
}

/// Accepts a request, and answers its publish.
async fn confirm(
    events: &StartEvents,
    jobs: &mut mpsc::Receiver<PublishJob>,
    request: StartRequest,
    result: Result<(), PublishError>,
) -> Result<AcceptedBody, HttpProblem> {
    let answer = async {
        let job = jobs.recv().await.unwrap();
        job.reply.send(result).unwrap();
    };
    tokio::join!(accept(events, request), answer).0
}

#[tokio::test(start_paused = true)]
async fn key_of_an_unconfirmed_event_is_refused_with_another_body() {
    let (events, mut jobs, _up) = events().await;
    let late = accept(&events, request("run-1", ANA)).await.unwrap_err();
    assert_eq!(late.kind, ProblemKind::Unavailable);
    let published = jobs.recv().await.unwrap().publication;
    let other = ANA.replace("visit-1", "visit-2");
    let reused = accept(&events, request("run-1", &other)).await.unwrap_err();
    assert_eq!(reused.kind, ProblemKind::KeyReused);
    let again = confirm(&events, &mut jobs, request("run-1", ANA), Ok(())).await.unwrap();
    assert!(!again.replayed);
    let id = published.properties.message_id().as_ref().unwrap().as_str().to_owned();
    assert_eq!(again.event_id, id);
    assert!(accept(&events, request("run-1", ANA)).await.unwrap().replayed);
}

#[tokio::test(start_paused = true)]
async fn event_is_not_queued_while_the_broker_is_away_or_blocked() {
    let (events, mut jobs, up) = events().await;
    events.publishing.set_blocked(true);
    let since = Instant::now();
    let blocked = accept(&events, request("run-1", ANA)).await.unwrap_err();
    events.publishing.set_blocked(false);
    drop(up);
    let away = accept(&events, request("run-1", ANA)).await.unwrap_err();
    assert_eq!((blocked.kind, away.kind), (ProblemKind::Unavailable, ProblemKind::Unavailable));
    assert_eq!((jobs.len(), since.elapsed()), (0, Duration::ZERO));
    // Nothing was published, so the key is still free.
    let _up = events.publishing.connection.up();
    let other = ANA.replace("visit-1", "visit-2");
    assert!(confirm(&events, &mut jobs, request("run-1", &other), Ok(())).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn bytes_of_events_without_a_confirm_are_bounded() {
    let (events, mut jobs, _up) = events().await;
    for key in ["run-1", "run-2", "run-3", "run-4"] {
        let late = accept(&events, request(key, ANA)).await.unwrap_err();
        assert_eq!(late.kind, ProblemKind::Unavailable);
    }
    assert_eq!(jobs.len(), 2, "there is room for two bodies");
    drop((jobs.recv().await, jobs.recv().await));
    assert!(confirm(&events, &mut jobs, request("run-4", ANA), Ok(())).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn event_takes_a_permit_for_each_guest_and_its_repeat_one() {
    let (events, mut jobs, _up) = events().await;
    let client = flows(3);
    let guest = r#"{"channel":"sms","address":"+34600111222"}"#;
    let three = ANA.replace(
        guest,
        &format!("{guest},{0},{1}", guest.replace("222", "333"), guest.replace("222", "444")),
    );
    let first = request_of(&client, "run-1", &three);
    confirm(&events, &mut jobs, first, Ok(())).await.unwrap();
    assert_eq!(client.count(), Err(Duration::from_secs(1)), "the bucket is empty");
    tokio::time::advance(Duration::from_secs(2)).await;
    let refused = accept(&events, request_of(&client, "run-2", &three)).await.unwrap_err();
    assert_eq!((refused.kind, jobs.len()), (ProblemKind::RateLimited, 0));
    assert!(accept(&events, request_of(&client, "run-1", &three)).await.unwrap().replayed);
    client.count().unwrap();
    assert!(client.count().is_err());
}

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
