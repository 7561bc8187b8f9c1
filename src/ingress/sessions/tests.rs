use std::sync::Mutex;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue, Request},
};
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::{
    sync::Semaphore,
    time::{advance, sleep},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    broker::publisher::{PublishError, PublishJob, PublishJobs, Publisher},
    clock::testing::runtime_clock,
    config::{Sources, load},
    contract::http::ProblemKind,
    ingress::{
        client_signatures,
        clients::Clients,
        config::ClientScope,
        service::{IngressService, RequestOrigin},
    },
    ledger::{
        LedgerError,
        claims::KeyGuard,
        entry::{Change, Entry},
        entry_store::EntryStore,
        memory::Memory,
    },
    stages,
    state::{PublishState, RaisedFlag},
    telemetry::metrics::Metrics,
};

const ANA: &str = r#"{"sessionId":"visit-1","guests":[{"channel":"sms","address":"+34600111222"}],"experts":[{"email":"expert@example.com"}]}"#;

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

fn events() -> (StartEvents, PublishJobs) {
    let (events, jobs, up) = connected_events();
    std::mem::forget(up);
    (events, jobs)
}

/// Start events, the jobs of the publisher, and its connection that is up.
fn connected_events() -> (StartEvents, PublishJobs, RaisedFlag) {
    let loaded = load(&Sources::default()).unwrap();
    let clock = runtime_clock(Timestamp::now());
    let (publisher, jobs) = Publisher::queue();
    let events = StartEvents {
        outlet: Outlet {
            publisher,
            publishing: PublishState::default(),
            room: Arc::new(Semaphore::new(2 * ANA.len() + 50)),
            exchange: "sessions".to_owned(),
        },
        ledger: Ledger::over(Arc::new(Memory::new(clock.clone())), clock.clone()),
        clock,
        random: Random::system(),
        without_ledger: false,
        rules: loaded.config.session_rules(),
        margin: SignedDuration::from_hours(1),
        tracer: Tracer::default(),
        metrics: Metrics::off().ingress(),
    };
    let up = events.outlet.publishing.connection.up();
    (events, jobs, up)
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
    let request = StartRequest { client: flows(1000), head, body, deadline };
    let accepted = events.accept(request, &mut RequestLog::begin(Instant::now())).await;
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

/// The stage forgets an event some time after its session, and a later repeat must not be a new event for it.
#[tokio::test(start_paused = true)]
async fn repeat_of_an_unconfirmed_request_has_the_first_time() {
    let (events, mut jobs) = events();
    let mut times = Vec::new();
    for _ in 0..3 {
        assert_eq!(accept(&events, Some("run-1")).await.unwrap_err(), ProblemKind::Unavailable);
        times.push(jobs.recv().await.unwrap().publication.properties.timestamp().unwrap());
        advance(Duration::from_secs(3000)).await;
    }
    assert_eq!(times, [times[0]; 3]);
    // Now the session of two hours is over.
    assert_eq!(accept(&events, Some("run-1")).await.unwrap_err(), ProblemKind::Invalid);
    assert_eq!(jobs.len(), 0);
}

/// The same people may come again, and their body is the same. The stage may know the first event.
#[tokio::test(start_paused = true)]
async fn request_without_a_key_is_refused_while_the_stage_may_know_its_event() {
    const MINUTES: u64 = 60;
    let (events, mut jobs) = events();
    assert_eq!(accept(&events, None).await.unwrap_err(), ProblemKind::Unavailable);
    let id = |job: PublishJob| job.publication.properties.message_id().clone();
    let first = id(jobs.recv().await.unwrap());
    advance(Duration::from_secs(121 * MINUTES)).await;
    assert_eq!(accept(&events, None).await.unwrap_err(), ProblemKind::Invalid);
    assert_eq!(jobs.len(), 0);
    advance(Duration::from_secs(60 * MINUTES)).await;
    assert_eq!(accept(&events, None).await.unwrap_err(), ProblemKind::Unavailable);
    assert_eq!(id(jobs.recv().await.unwrap()), first);
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

fn request_of(client: &Arc<Client>, key: &str, body: &str) -> StartRequest {
    client.count().unwrap();
    let mut headers = HeaderMap::new();
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

const TOKEN: &str = "icw_token-of-the-flows-1";

/// One client with this burst.
fn clients(burst: u32) -> Clients {
    let config = json!({
        "token_file": "", "token": TOKEN, "token_sha256": "", "signing_secret_file": "", "signing_secret": "",
            "scopes": ["start"],
        "rate": 1, "burst": burst, "allowed_addresses": []
    });
    let clients = [("flows".to_owned(), serde_json::from_value(config).unwrap())].into();
    Clients::open(&clients, 2).unwrap()
}

fn flows(burst: u32) -> Arc<Client> {
    let clients = clients(burst);
    let authorization = format!("Bearer {TOKEN}");
    let address = "127.0.0.1".parse().unwrap();
    Arc::clone(clients.admit(Some(authorization.as_bytes()), address, ClientScope::Start).unwrap())
}

fn service(events: StartEvents, clients: Clients) -> IngressService {
    IngressService {
        receipts: None,
        clients,
        events,
        in_flight: Semaphore::new(2),
        trusted_proxies: Vec::new(),
        requires_key: false,
        openapi: Bytes::new(),
        draining: CancellationToken::new(),
        closed: CancellationToken::new(),
    }
}

/// Anybody can begin a signed request and leave, which costs a place for a while.
#[tokio::test(start_paused = true)]
async fn signed_requests_whose_bodies_do_not_come_throttle_their_address() {
    let (events, _jobs) = events();
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let seconds = events.clock.now().as_second();
    let config = json!({
        "token_file": "", "token": "", "token_sha256": "", "signing_secret_file": "", "signing_secret": secret,
        "scopes": ["start"], "rate": 1, "burst": 1, "allowed_addresses": []
    });
    let signing = [("service".to_owned(), serde_json::from_value(config).unwrap())].into();
    let service = service(events, Clients::open(&signing, 2).unwrap());
    let signature = client_signatures::testing::signature(secret, "run-1", seconds, ANA.as_bytes());
    let headers = client_signatures::testing::headers("run-1", &seconds.to_string(), &signature);
    let request = || {
        let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        let mut request = Request::post("/v1/sessions").body(never).unwrap();
        request.headers_mut().extend(headers.clone());
        request
    };
    let origin = RequestOrigin { peer: "127.0.0.1".parse().unwrap(), busy: Arc::default() };
    let first = service.answer(request(), &origin).await;
    assert_eq!(first.status(), 408, "the body is read before its signature can be checked");
    // One permit is back.
    advance(Duration::from_secs(10)).await;
    for _ in 0..10 {
        tokio::select! {
            biased;
            _ = service.answer(request(), &origin) => unreachable!("the body does not end"),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(service.answer(request(), &origin).await.status(), 429);
    assert!(!origin.busy.load(std::sync::atomic::Ordering::Relaxed), "another connection may replace it");
}

#[tokio::test(start_paused = true)]
async fn request_whose_client_disconnects_before_the_answer_is_counted_as_gone() {
    let (mut events, mut jobs) = events();
    let metrics = Metrics::new(stages::ALL, &[]).unwrap();
    events.metrics = metrics.ingress();
    let service = service(events, clients(1));
    let request = Request::post("/v1/sessions")
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", "application/json")
        .body(Body::from(ANA))
        .unwrap();
    let origin = RequestOrigin { peer: "127.0.0.1".parse().unwrap(), busy: Arc::default() };
    tokio::select! {
        _ = service.answer(request, &origin) => unreachable!("nobody confirms the event"),
        job = jobs.recv() => assert!(job.is_some()),
    }
    let shown = metrics.render().unwrap();
    let gone = r#"ingress_requests_total{outcome="gone",route="sessions"} 1"#;
    assert!(shown.contains(gone), "{shown}");
    assert!(shown.contains("ingress_in_flight 0"), "{shown}");
}

async fn send(events: &StartEvents, request: StartRequest) -> Result<AcceptedBody, HttpProblem> {
    events.accept(request, &mut RequestLog::begin(Instant::now())).await
}

/// Accepts a request, and answers its publish.
async fn send_confirmed(
    events: &StartEvents,
    jobs: &mut PublishJobs,
    request: StartRequest,
    result: Result<(), PublishError>,
) -> Result<AcceptedBody, HttpProblem> {
    let answer = async {
        let job = jobs.recv().await.unwrap();
        job.reply.send(result).unwrap();
    };
    tokio::join!(send(events, request), answer).0
}

#[tokio::test(start_paused = true)]
async fn key_of_an_unconfirmed_event_is_refused_with_another_body() {
    let (events, mut jobs, _up) = connected_events();
    let late = send(&events, request("run-1", ANA)).await.unwrap_err();
    assert_eq!(late.kind, ProblemKind::Unavailable);
    let published = jobs.recv().await.unwrap().publication;
    let other = ANA.replace("visit-1", "visit-2");
    let reused = send(&events, request("run-1", &other)).await.unwrap_err();
    assert_eq!(reused.kind, ProblemKind::KeyReused);
    let again = send_confirmed(&events, &mut jobs, request("run-1", ANA), Ok(())).await.unwrap();
    assert!(!again.replayed);
    let id = published.properties.message_id().as_ref().unwrap().as_str().to_owned();
    assert_eq!(again.event_id, id);
    assert!(send(&events, request("run-1", ANA)).await.unwrap().replayed);
}

#[tokio::test(start_paused = true)]
async fn event_is_not_queued_while_the_broker_is_away_or_blocked() {
    let (events, mut jobs, up) = connected_events();
    events.outlet.publishing.set_blocked(true);
    let since = Instant::now();
    let blocked = send(&events, request("run-1", ANA)).await.unwrap_err();
    events.outlet.publishing.set_blocked(false);
    drop(up);
    let away = send(&events, request("run-1", ANA)).await.unwrap_err();
    assert_eq!((blocked.kind, away.kind), (ProblemKind::Unavailable, ProblemKind::Unavailable));
    assert_eq!((jobs.len(), since.elapsed()), (0, Duration::ZERO));
    // Nothing was published, so the key is still free.
    let _up = events.outlet.publishing.connection.up();
    let other = ANA.replace("visit-1", "visit-2");
    assert!(send_confirmed(&events, &mut jobs, request("run-1", &other), Ok(())).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn bytes_of_events_without_a_confirm_are_bounded() {
    let (events, mut jobs, _up) = connected_events();
    for key in ["run-1", "run-2", "run-3", "run-4"] {
        let late = send(&events, request(key, ANA)).await.unwrap_err();
        assert_eq!(late.kind, ProblemKind::Unavailable);
    }
    assert_eq!(jobs.len(), 2, "there is room for two bodies");
    drop((jobs.recv().await, jobs.recv().await));
    assert!(send_confirmed(&events, &mut jobs, request("run-4", ANA), Ok(())).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn guests_of_an_event_are_counted_once() {
    let (events, mut jobs, _up) = connected_events();
    let client = flows(3);
    let guest = r#"{"channel":"sms","address":"+34600111222"}"#;
    let three = ANA.replace(
        guest,
        &format!("{guest},{0},{1}", guest.replace("222", "333"), guest.replace("222", "444")),
    );
    let first = request_of(&client, "run-1", &three);
    send_confirmed(&events, &mut jobs, first, Ok(())).await.unwrap();
    let refused = send(&events, request_of(&client, "run-2", &three)).await.unwrap_err();
    assert_eq!((refused.kind, jobs.len()), (ProblemKind::RateLimited, 0));
    assert!(send(&events, request_of(&client, "run-1", &three)).await.unwrap().replayed);
    advance(Duration::from_secs(3)).await;
    for result in [Err(PublishError::Unroutable), Err(PublishError::Unknown), Ok(())] {
        let sent = send_confirmed(&events, &mut jobs, request_of(&client, "run-2", &three), result).await;
        assert_eq!(sent.is_ok(), result.is_ok(), "no more people are counted");
    }
    advance(Duration::from_secs(1)).await;
    let refused = send(&events, request_of(&client, "run-3", &three)).await.unwrap_err();
    assert_eq!((refused.kind, jobs.len()), (ProblemKind::RateLimited, 0));
}

/// A ledger whose writes take this time, also if their callers give up.
#[derive(Debug)]
struct SlowStore {
    entries: Arc<Memory>,
    clock: Clock,
    wait: Arc<Mutex<Duration>>,
}

impl EntryStore for SlowStore {
    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, LedgerError>> {
        self.entries.get(key)
    }

    fn write<'a>(
        &'a self,
        key: &'a str,
        change: Change,
        guard: Option<Arc<KeyGuard>>,
    ) -> BoxFuture<'a, Result<(), LedgerError>> {
        let (entries, key, wait) = (Arc::clone(&self.entries), key.to_owned(), *self.wait.lock().unwrap());
        let written = tokio::spawn(async move {
            sleep(wait).await;
            entries.write(&key, change, guard).await
        });
        Box::pin(async { written.await.unwrap() })
    }

    fn count(&self) -> BoxFuture<'_, Result<Option<u64>, LedgerError>> {
        self.entries.count()
    }
}

/// The note of the first request is written after its answer, so its repeat is not counted.
#[tokio::test(start_paused = true)]
async fn guests_of_an_event_with_a_late_note_stay_counted() {
    const GUESTS: u32 = 20;
    let guests: Vec<_> =
        (0..GUESTS).map(|n| json!({"channel": "sms", "address": format!("+346001112{n:02}")})).collect();
    let experts = [json!({"email": "expert@example.com"})];
    let body = json!({"sessionId": "visit-1", "guests": guests, "experts": experts}).to_string();
    for published in [None, Some(Err(PublishError::Unroutable))] {
        let (mut events, mut jobs, _up) = connected_events();
        let (clock, wait) = (events.clock.clone(), Arc::<Mutex<Duration>>::default());
        let entries = Arc::new(Memory::new(clock.clone()));
        let store = SlowStore { entries, clock: clock.clone(), wait: Arc::clone(&wait) };
        events.ledger = Ledger::over(Arc::new(store), clock);
        events.outlet.room = Arc::new(Semaphore::new(100_000));
        let client = flows(GUESTS);
        let slow = Duration::from_secs(3);
        let first = request_of(&client, "run-1", &body);
        let refused = if let Some(result) = published {
            // The note is written in time, and its removal is not.
            let answer = async {
                let job = jobs.recv().await.unwrap();
                *wait.lock().unwrap() = slow;
                job.reply.send(result).unwrap();
            };
            tokio::join!(send(&events, first), answer).0
        } else {
            *wait.lock().unwrap() = slow;
            send(&events, first).await
        };
        assert_eq!(refused.unwrap_err().kind, ProblemKind::Unavailable);
        if published.is_none() {
            sleep(slow).await;
            *wait.lock().unwrap() = Duration::ZERO;
            let repeat = request_of(&client, "run-1", &body);
            assert!(!send_confirmed(&events, &mut jobs, repeat, Ok(())).await.unwrap().replayed);
        }
        let refused = send(&events, request_of(&client, "run-2", &body)).await.unwrap_err();
        assert_eq!((refused.kind, jobs.len()), (ProblemKind::RateLimited, 0));
    }
}
