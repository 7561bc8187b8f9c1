//! An event with a fault of its own fails alone; no other event waits for it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{
        HeaderMap, HeaderValue,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
};
use instant_connect_sandbox::Endpoint;
use jiff::Timestamp;
use lapin::types::AMQPValue;
use reqwest::StatusCode;
use serde_json::{Value, json};

use testkit::{
    Rig,
    amqp::with_id,
    events::{event, event_with},
    poll, soon,
};

/// The log message of a breaker that opens.
const OPENED: &str = "breaker opened; consuming paused (attempts are not counted while it is open)";

/// Short delays between attempts.
const QUICK: [(&str, &str); 4] = [
    ("retry.initial", "10ms"),
    ("retry.max", "50ms"),
    ("retry.jitter", "0"),
    ("retry.delays", "10ms,50ms,1s,5s"),
];

/// A proxy for Instant Connect that refuses one session.
struct RefusingProxy {
    sandbox: String,
    client: reqwest::Client,
    refused: &'static str,
    status: StatusCode,
    /// The Retry-After value in seconds.
    retry_after: Option<&'static str>,
    calls_refused: AtomicUsize,
}

impl RefusingProxy {
    /// Starts in front of the sandbox of `rig`. Calls for session `refused` get `status` and `retry_after`.
    async fn start(
        rig: &Rig,
        refused: &'static str,
        status: u16,
        retry_after: Option<&'static str>,
    ) -> (Arc<Self>, String) {
        // Err means that a provider is installed already, which is fine.
        _ = rustls::crypto::ring::default_provider().install_default();
        let sandbox = rig.environment(&[]).into_iter().find(|(name, _)| name == "ICW_INSTANT_CONNECT__URL");
        let proxy = Arc::new(Self {
            sandbox: sandbox.unwrap().1,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            refused,
            status: StatusCode::from_u16(status).unwrap(),
            retry_after,
            calls_refused: AtomicUsize::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let router = Router::new().fallback(Self::answer).with_state(Arc::clone(&proxy));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (proxy, url)
    }

    async fn answer(
        State(proxy): State<Arc<Self>>,
        headers: HeaderMap,
        body: Bytes,
    ) -> (StatusCode, HeaderMap, Bytes) {
        let mut json = HeaderMap::new();
        json.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let call: Value = serde_json::from_slice(&body).unwrap();
        if call["jwt"]["sub"] == proxy.refused {
            proxy.calls_refused.fetch_add(1, SeqCst);
            let seconds = proxy.retry_after.map(HeaderValue::from_static);
            json.extend(seconds.map(|seconds| (RETRY_AFTER, seconds)));
            return (proxy.status, json, Bytes::from_static(b"{}"));
        }
        let url = format!("{}api/v2/joseencrypt", proxy.sandbox);
        let call = proxy.client.post(url).body(body).header("content-type", "application/json");
        let answer = call.header("authorization", headers["authorization"].clone()).send().await.unwrap();
        (answer.status(), json, answer.bytes().await.unwrap())
    }

    async fn refuses(&self, calls: usize) {
        poll("a call of the event that fails", async || {
            (self.calls_refused.load(SeqCst) >= calls).then_some(())
        })
        .await;
    }
}

/// The event is the only one at first, so its failures look like an outage.
#[tokio::test]
async fn always_failing_event_is_exhausted_and_does_not_stop_others() {
    for status in [500, 403, 401] {
        let rig = Rig::new().await;
        let (proxy, url) = RefusingProxy::start(&rig, "visit-0", status, None).await;
        let more = [("instant_connect.url", url.as_str()), ("breaker.probe_initial", "10ms")];
        let worker = rig.start(&[&QUICK[..], &more].concat()).await;
        let (mut guests, mut dead) = (rig.guest_links().await, rig.dead_letters("sessions").await);
        rig.publish(0).await;
        proxy.refuses(7).await;
        let others = async {
            for n in 1.. {
                rig.publish(n).await;
                assert_eq!(guests.next().await.json()["sessionId"], format!("visit-{n}"));
                // Meanwhile the failing event fails once more, or is dead-lettered.
                proxy.refuses(proxy.calls_refused.load(SeqCst) + 1).await;
            }
        };
        let letter = tokio::select! {
            letter = dead.next() => letter,
            () = others => unreachable!(),
        };
        assert_eq!((letter.id().as_str(), letter.header("x-dead-class").as_str()), ("event-0", "exhausted"));
        let said = letter.header("x-dead-reason");
        assert!(
            said.contains(&format!("responded with {status}")) && said.ends_with("(attempt 8 of 8)"),
            "{said}"
        );
        assert_eq!(letter.headers()["x-attempts"], AMQPValue::LongLongInt(8), "{status}");
        let time = |name: &str| letter.header(name).parse::<Timestamp>().unwrap();
        assert!(time("x-first-failed-at") < time("x-dead-at"), "{status}");
        // A refused token opens the breaker at once: only another event can show that the token is good.
        assert!(status != 500 || worker.output.logged(OPENED).is_empty());
        worker.stop().await;
    }
}

/// A locked room (423) must not stop other calls. Neither must a Retry-After that only one event gets again and
/// again.
#[tokio::test]
async fn retry_after_of_one_event_does_not_stop_others() {
    for (status, seconds, rounds) in [(423, "600", 0), (429, "1", 6)] {
        let rig = Rig::new().await;
        let (proxy, url) = RefusingProxy::start(&rig, "visit-0", status, Some(seconds)).await;
        let quick = [("breaker.probe_initial", "10ms"), ("breaker.probe_max", "20ms")];
        let more = [&QUICK[..], &quick, &[("instant_connect.url", url.as_str())]].concat();
        let worker = rig.start(&more).await;
        let mut guests = rig.guest_links().await;
        rig.publish(0).await;
        proxy.refuses(1).await;
        let mut opened = 0;
        for n in 1..=2 * rounds + 3 {
            if n == rounds + 1 {
                opened = worker.output.logged(OPENED).len();
            }
            rig.publish(n).await;
            assert_eq!(guests.next().await.json()["sessionId"], format!("visit-{n}"));
            if rounds > 0 {
                proxy.refuses(proxy.calls_refused.load(SeqCst) + 1).await;
            }
        }
        assert_eq!(worker.output.logged(OPENED).len(), opened, "{status}");
        assert!(
            (1..=3).contains(&opened) == (status == 429),
            "the first Retry-After responses may apply to all events: {opened}"
        );
        assert!(
            rounds > 0 || proxy.calls_refused.load(SeqCst) == 1,
            "called again before the Retry-After ended"
        );
        worker.kill();
    }
}

/// A possible API failure is not counted, even with one event only and more workers than attempts.
#[tokio::test]
async fn outage_with_a_single_event_counts_no_attempts() {
    let rig = Rig::new().await;
    let settings = [&QUICK[..], &[("retry.attempts", "2")]].concat();
    rig.sandbox.fault("joseencrypt:status=503".parse().unwrap());
    for started in 1..=3 {
        let worker = rig.start(&settings).await;
        if started == 1 {
            rig.publish(1).await;
        }
        let tried = rig.sandbox.until(move |sandbox| sandbox.requests(Endpoint::JoseEncrypt) >= 4 * started);
        soon("more calls than there are attempts", tried).await;
        worker.stop().await;
    }
    let worker = rig.start(&settings).await;
    rig.sandbox.clear_faults();
    rig.guest_links().await.next().await;
    rig.until_experts_have(1).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
}

/// A flow sends its event forty times while the first call is slow.
#[tokio::test]
async fn copies_of_a_slow_event_do_not_use_up_the_concurrency() {
    let rig = Rig::new().await;
    let few = [("amqp.prefetch", "4"), ("amqp.concurrency", "4"), ("instant_connect.timeout", "5m")];
    let worker = rig.start(&[&few[..], &[("shutdown.grace", "100ms")]].concat()).await;
    rig.sandbox.fault("joseencrypt:hang,times=1".parse().unwrap());
    let copies = (0..40).map(|_| (with_id("event-1"), event(1).to_string().into_bytes()));
    rig.amqp.publish_all(&rig.name("sessions"), "session.start", copies).await;
    let hangs = rig.sandbox.until(|sandbox| sandbox.requests(Endpoint::JoseEncrypt) == 1);
    soon("the first call", hangs).await;
    rig.publish(2).await;
    let link = rig.guest_links().await.next().await;
    assert_eq!(link.json()["sessionId"], "visit-2");
    assert_eq!(rig.sandbox.requests(Endpoint::JoseEncrypt), 2, "the first call still hangs");
    let busy = worker.output.logged("deferred; attempt not counted");
    let is_short = |one: &Value| {
        one["reason"] == "the same event is being processed" && one["hold_ms"].as_f64() == Some(1000.0)
    };
    assert!(!busy.is_empty() && busy.iter().all(is_short), "{busy:?}");
    worker.stop().await;
}

/// Expired and invalid events need no call, so none of them is a probe.
#[tokio::test]
async fn expired_and_invalid_events_are_dead_lettered_while_the_breaker_is_open() {
    const REFUSED: usize = 500;
    let rig = Rig::new().await;
    let settings = [
        ("retry.delays", "5m"),
        ("breaker.failures", "1"),
        ("breaker.probe_initial", "10ms"),
        ("breaker.probe_max", "20ms"),
    ];
    let worker = rig.start(&settings).await;
    rig.sandbox.fault("joseencrypt:status=503".parse().unwrap());
    rig.publish(0).await;
    worker.output.until(OPENED, 1).await;
    let over = json!({"expiresAt": "2026-01-01T00:00:00Z"});
    let refused = (1..=REFUSED).map(|n| {
        let body = if n % 2 == 0 { b"{}".to_vec() } else { event_with(n, &over).to_string().into_bytes() };
        (with_id(&format!("event-{n}")), body)
    });
    rig.amqp.publish_all(&rig.name("sessions"), "session.start", refused).await;
    rig.dead_letters("sessions").await.take(REFUSED).await;
    // The first event that needs a call is a probe.
    rig.sandbox.clear_faults();
    rig.publish(REFUSED + 1).await;
    rig.guest_links().await.next().await;
    let subscriptions = worker.output.logged("subscribed to queue").len();
    assert!(subscriptions < 20, "{subscriptions} subscriptions for {REFUSED} events");
    worker.stop().await;
}
