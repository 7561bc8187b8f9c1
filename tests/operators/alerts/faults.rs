//! Faults, each on its own worker, and the alerts that they must cause.

use std::collections::BTreeSet;

use instant_connect_sandbox::ReceiptWebhook;
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio::sync::watch;

use super::prometheus::Prometheus;
use crate::send;
use testkit::{
    Rig,
    admin::Admin,
    amqp::with_id,
    events::{event_with, number},
    poll,
    program::Program,
    redis_server::RedisServer,
    relay::Relay,
    rig::{CLIENT_TOKEN, HUB_SECRET, NEW_CLIENT_TOKEN},
    soon,
};

/// The names of the alerts that fired as expected.
pub(super) type Fired = Vec<&'static str>;

/// Starts a worker that Prometheus scrapes as the only target of `job`, before any fault.
async fn scraped(
    prometheus: &Prometheus,
    job: &str,
    rig: &Rig,
    settings: &[(&str, &str)],
) -> (Program, Admin) {
    let worker = rig.start(settings).await;
    let admin = Admin::of(&worker).await;
    prometheus.scrape(job, &admin).await;
    (worker, admin)
}

fn fault(rig: &Rig, rule: &str) {
    rig.sandbox.fault(rule.parse().unwrap());
}

/// An ingress for one client without a limit.
const INGRESS: [(&str, &str); 5] = [
    ("ingress.listen", "127.0.0.1:0"),
    ("ingress.clients.flows.token", CLIENT_TOKEN),
    ("ingress.clients.flows.rate", "1000"),
    ("ingress.clients.flows.burst", "1000"),
    ("ingress.drain", "1ms"),
];

/// As [`INGRESS`], with receipts.
const RECEIPTS: [(&str, &str); 6] =
    [INGRESS[0], INGRESS[1], INGRESS[2], INGRESS[3], INGRESS[4], ("receipts.secret", HUB_SECRET)];

/// Starts sessions over the ingress of a worker.
struct FlowCaller(String, reqwest::Client);

impl FlowCaller {
    async fn of(worker: &Program, admin: &Admin) -> Self {
        admin.until(r#"connected{connection="publish"}"#, "1").await;
        let said = worker.output.logged("ingress listens");
        let url = format!("http://{}/v1/sessions", said[0]["address"].as_str().unwrap());
        // The ingress closes each connection after a minute, and a request must not meet that.
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
        Self(url, client.build().unwrap())
    }

    /// A webhook that sends receipts to the ingress.
    fn webhook(&self) -> ReceiptWebhook {
        let url = self.0.replace("sessions", "receipts/default").parse().unwrap();
        ReceiptWebhook { secret: Some(HUB_SECRET.into()), ..ReceiptWebhook::new(url) }
    }

    /// The status of the answer to event number `n`.
    async fn start(&self, token: &str, n: usize) -> u16 {
        let request = self.1.post(&self.0).bearer_auth(token).header("content-type", "application/json");
        let request = request.header("idempotency-key", n.to_string());
        request.body(event_with(n, &json!({})).to_string()).send().await.unwrap().status().as_u16()
    }

    /// Starts event number `n`. On a busy machine a confirm can be late, and the answer is then 503.
    async fn accepted(&self, n: usize) {
        let status = async || (self.start(CLIENT_TOKEN, n).await == 202).then_some(());
        poll("the ingress to accept an event", status).await;
    }
}

/// No fault: events arrive until `stop` is set, and no alert may fire.
pub(super) async fn none(prometheus: &Prometheus, mut stop: watch::Receiver<bool>) {
    let rig = Rig::new().await;
    let connect = rig.webex_connect().await;
    // So that the panels and rules for guests' messages and their receipts have series.
    let url = connect.url();
    // More messages than send.rate allows would wait, which looks like stuck work to the shortened alert.
    let more = [&RECEIPTS[..], &[("send.rate", "0")]].concat();
    let settings = send::settings(url.as_str(), &more);
    let (worker, admin) = scraped(prometheus, "healthy", &rig, &settings).await;
    let flow = FlowCaller::of(&worker, &admin).await;
    connect.save_webhook(flow.webhook()).await.unwrap();
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(200));
    for n in 1.. {
        let guests = ["sms", "whatsapp"].map(|channel| json!({"channel": channel, "address": number(n)}));
        rig.publish_event(with_id(&format!("event-{n}")), &event_with(n, &json!({"guests": guests}))).await;
        flow.accepted(n + 1_000_000).await;
        tokio::select! {
            _ = tick.tick() => {}
            stopped = stop.wait_for(|stop| *stop) => { _ = stopped.unwrap(); break; }
        }
    }
    prometheus.until("instant_connect_event_to_link_seconds_count{job=\"healthy\"} > 50").await;
    let fired = prometheus.query("count_over_time(ALERTS{job=\"healthy\",alertstate=\"firing\"}[1h])").await;
    assert!(fired.is_empty(), "a healthy worker: {fired:?}");
    worker.stop().await;
}

/// One API is down; the other refuses the token.
pub(super) async fn webex(prometheus: &Prometheus) -> Fired {
    let rig = Rig::new().await;
    let (worker, admin) = scraped(prometheus, "webex", &rig, &[("breaker.failures", "1")]).await;
    fault(&rig, "messages:status=503");
    rig.publish(1).await;
    admin.until(r#"breaker_open{upstream="webex_messages"}"#, "1").await;
    fault(&rig, "joseencrypt:status=401");
    rig.publish(2).await;
    let fired = tokio::join!(
        prometheus.until_fires("InstantConnectTokenRefused", "webex"),
        prometheus.until_fires("InstantConnectBreakerOpen", "webex"),
    );
    worker.kill();
    vec![fired.0, fired.1]
}

/// Events that are invalid, whose links have no consumer, or that arrive late; experts who wait.
pub(super) async fn events(prometheus: &Prometheus) -> Fired {
    let rig = Rig::new().await;
    let declared = rig.command(&["topology", "--declare"], &[]).await;
    assert_eq!(declared.status, Some(0), "{declared:?}");
    // The missing binding is not redeclared.
    let settings = [("amqp.watch_interval", "1s"), ("topology.declare", "off")];
    let (worker, admin) = scraped(prometheus, "events", &rig, &settings).await;
    rig.publish_body(with_id("event-1"), b"no event").await;
    rig.amqp.unbind(&rig.name("guests"), &rig.name("links"), "guest.whatsapp").await;
    let guests = json!({"guests": [{"channel": "whatsapp", "address": number(2)}]});
    rig.publish_event(with_id("event-2"), &event_with(2, &guests)).await;
    admin.until(r#"events_total{outcome="dead",stage="link"}"#, "2").await;
    fault(&rig, "messages:status=429,retry-after=15,times=1");
    let minutes_ago = Timestamp::now() - SignedDuration::from_mins(2);
    let publish = async |n| {
        let properties = with_id(&format!("event-{n}"));
        let properties = properties.with_timestamp(u64::try_from(minutes_ago.as_second()).unwrap());
        rig.publish_event(properties, &event_with(n, &json!({}))).await;
    };
    publish(11).await;
    // Otherwise the messages of other events could be sent before the one that is refused.
    admin.until(r#"breaker_open{upstream="webex_messages"}"#, "1").await;
    for n in 12..=20 {
        publish(n).await;
    }
    let late = |alert, objective| {
        let labels = format!("alertname=\"{alert}\",alertstate=\"firing\",objective=\"{objective}\"");
        async move { prometheus.until(&format!("ALERTS{{job=\"events\",{labels}}}")).await }
    };
    let fired = tokio::join!(
        prometheus.until_fires("InstantConnectDeadLetters", "events"),
        prometheus.until_fires("InstantConnectDeadLettersUrgent", "events"),
        prometheus.until_fires("InstantConnectDeadLettersWait", "events"),
        prometheus.until_fires("InstantConnectLate", "events"),
        prometheus.until_fires("InstantConnectOftenLate", "events"),
        late("InstantConnectLate", "link"),
        late("InstantConnectLate", "expert"),
    );
    worker.kill();
    vec![fired.0, fired.1, fired.2, fired.3, fired.4]
}

/// The broker connection breaks several times, then for good; then the worker stops.
pub(super) async fn network(prometheus: &Prometheus) -> Fired {
    let rig = Rig::new().await;
    let (relay, url) = Relay::in_front_of(rig.url()).await;
    let settings = [("amqp.url", url.as_str()), ("amqp.reconnect_max", "100ms")];
    let (worker, admin) = scraped(prometheus, "network", &rig, &settings).await;
    let storm = async {
        loop {
            let connections = relay.accepted();
            relay.cut();
            relay.until_accepted(connections + 3).await;
            for connection in ["link", "host", "publish"] {
                admin.until(&format!("connected{{connection=\"{connection}\"}}"), "1").await;
            }
        }
    };
    let reconnects = tokio::select! {
        fired = prometheus.until_fires("InstantConnectReconnects", "network") => fired,
        () = storm => unreachable!(),
    };
    drop(relay);
    let not_consuming = prometheus.until_fires("InstantConnectNotConsuming", "network").await;
    worker.kill();
    let gone = tokio::join!(
        prometheus.until_fires("InstantConnectWorkerMissing", "network"),
        prometheus.until_fires("InstantConnectWorkerDown", "network"),
    );
    vec![reconnects, not_consuming, gone.0, gone.1]
}

/// The broker's disk is full.
pub(super) async fn blocked(prometheus: &Prometheus) -> Fired {
    let rig = Rig::private().await;
    // Something must be published while the disk is full: copies of a message that is retried every second.
    let settings = [("breaker.failures", "1"), ("breaker.probe_max", "1s")];
    let (worker, admin) = scraped(prometheus, "blocked", &rig, &settings).await;
    fault(&rig, "joseencrypt:status=503");
    rig.publish(1).await;
    admin.until(r#"breaker_open{upstream="instant_connect"}"#, "1").await;
    rig.broker().disk_is_full(true).await;
    let fired = prometheus.until_fires("InstantConnectPublishingBlocked", "blocked").await;
    worker.kill();
    vec![fired]
}

/// A response that does not come, and no other consumer for the waiting events.
pub(super) async fn stuck(prometheus: &Prometheus) -> Fired {
    let rig = Rig::new().await;
    let settings = [
        ("amqp.concurrency", "1"),
        ("amqp.prefetch", "1"),
        ("amqp.watch_interval", "1s"),
        ("instant_connect.timeout", "5m"),
    ];
    let (worker, _) = scraped(prometheus, "stuck", &rig, &settings).await;
    fault(&rig, "joseencrypt:hang");
    rig.publish_many(1..=3).await;
    let fired = tokio::join!(
        prometheus.until_fires("InstantConnectWorkStuck", "stuck"),
        prometheus.until_fires("InstantConnectEventsWait", "stuck"),
    );
    worker.kill();
    vec![fired.0, fired.1]
}

/// Events that are retried many times; then the ledger is down.
pub(super) async fn ledger(prometheus: &Prometheus) -> Fired {
    let rig = Rig::new().await;
    let mut redis = RedisServer::start();
    let url = redis.url();
    let settings = [
        ("breaker.failures", "1000"),
        ("breaker.probe_max", "1s"),
        ("retry.attempts", "1000"),
        ("retry.max", "1s"),
        ("ledger.kind", "redis"),
        ("ledger.url", url.expose_secret()),
    ];
    let (worker, _) = scraped(prometheus, "ledger", &rig, &settings).await;
    fault(&rig, "joseencrypt:status=503");
    rig.publish_many(1..=5).await;
    let hold_fills = prometheus.until_fires("InstantConnectHoldFills", "ledger").await;
    redis.kill();
    let ledger = prometheus.until_fires("InstantConnectLedgerFailing", "ledger").await;
    worker.kill();
    vec![hold_fills, ledger]
}

/// The guests queue has no consumer and is full.
pub(super) async fn full(prometheus: &Prometheus) -> Fired {
    let rig = Rig::new().await;
    let (worker, admin) = scraped(prometheus, "full", &rig, &[("topology.queue_length_max", "5")]).await;
    // More messages than fit. The broker may accept more than the limit from one batch before it notices.
    let guests: Vec<_> = (1..=20).map(|n| json!({"channel": "sms", "address": number(n)})).collect();
    let event = |n| event_with(n, &json!({"guests": guests}));
    rig.publish_event(with_id("event-1"), &event(1)).await;
    let more_than_five = async {
        while rig.amqp.depth(&rig.name("guests")).await.unwrap().0 < 5 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    soon("a full queue", more_than_five).await;
    rig.publish_event(with_id("event-2"), &event(2)).await;
    let fired = prometheus.until_fires("InstantConnectPublishesRefused", "full").await;
    assert_ne!(admin.series().await[r#"publishes_total{result="nacked"}"#], "0");
    worker.kill();
    vec![fired]
}

/// A delay queue does not return its messages: another client has consumed them without an ack.
pub(super) async fn stranded(prometheus: &Prometheus) -> Fired {
    let rig = Rig::new().await;
    let settings =
        [("retry.delays", "1s"), ("retry.initial", "1s"), ("retry.max", "1s"), ("breaker.failures", "1000")];
    let (worker, _) = scraped(prometheus, "stranded", &rig, &settings).await;
    let _kept = rig.amqp.consume(&rig.name("sessions.hold.1000")).await;
    fault(&rig, "joseencrypt:status=503");
    let mut tick = tokio::time::interval(std::time::Duration::from_secs(1));
    let events = async {
        for n in 1.. {
            rig.publish(n).await;
            tick.tick().await;
        }
    };
    let fired = tokio::select! {
        fired = prometheus.until_fires("InstantConnectHoldsDoNotReturn", "stranded") => fired,
        () = events => unreachable!(),
    };
    worker.kill();
    vec![fired]
}

/// Clients with a wrong token, and a broker that is away from the ingress.
pub(super) async fn ingress(prometheus: &Prometheus) -> Fired {
    let rig = Rig::new().await;
    let (relay, url) = Relay::in_front_of(rig.url()).await;
    let settings = [&INGRESS, &[("amqp.url", url.as_str())][..]].concat();
    let (worker, admin) = scraped(prometheus, "ingress", &rig, &settings).await;
    let flow = FlowCaller::of(&worker, &admin).await;
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(200));
    let calls = async {
        for n in 1.. {
            flow.accepted(n).await;
            assert_ne!(flow.start(NEW_CLIENT_TOKEN, n).await, 202);
            tick.tick().await;
        }
    };
    let refused = tokio::select! {
        fired = prometheus.until_fires("InstantConnectIngressClientsRefused", "ingress") => fired,
        () = calls => unreachable!(),
    };
    drop(relay);
    admin.until(r#"connected{connection="publish"}"#, "0").await;
    let calls = async {
        for n in (100_000..).step_by(20) {
            futures_util::future::join_all((n..n + 20).map(|n| flow.start(CLIENT_TOKEN, n))).await;
            tick.tick().await;
        }
    };
    let unavailable = tokio::select! {
        fired = prometheus.until_fires("InstantConnectIngressUnavailable", "ingress") => fired,
        () = calls => unreachable!(),
    };
    worker.kill();
    vec![refused, unavailable]
}

/// Webex Connect has another secret, and then its messages fail.
pub(super) async fn receipts(prometheus: &Prometheus) -> Fired {
    let rig = Rig::new().await;
    let connect = rig.webex_connect().await;
    let url = connect.url();
    let settings = send::settings(url.as_str(), &RECEIPTS);
    let (worker, admin) = scraped(prometheus, "receipts", &rig, &settings).await;
    let webhook = FlowCaller::of(&worker, &admin).await.webhook();
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(200));
    let mut fired = Vec::new();
    for (alert, secret, first) in [
        ("InstantConnectReceiptsRefused", "the-secret-of-another-webhook", 0),
        ("InstantConnectMessagesFail", HUB_SECRET, 1_000_000),
    ] {
        let signed = ReceiptWebhook { secret: Some(secret.into()), retries: 0, ..webhook.clone() };
        connect.change_settings(|settings| settings.webhook = Some(signed));
        connect.fault("receipts:fail=7109".parse().unwrap());
        let messages = async {
            for n in first.. {
                rig.publish(n).await;
                tick.tick().await;
            }
        };
        let alerts = async {
            let name = prometheus.until_fires(alert, "receipts").await;
            if first == 0 {
                // No receipt is accepted.
                return vec![name, prometheus.until_fires("InstantConnectReceiptsMissing", "receipts").await];
            }
            vec![name]
        };
        tokio::select! {
            names = alerts => fired.extend(names),
            () = messages => unreachable!(),
        }
    }
    worker.kill();
    fired
}

/// An ingress of its own, which loses the ledger, then the broker, and then ends.
pub(super) async fn edge(prometheus: &Prometheus) -> Fired {
    let rig = Rig::new().await;
    let (relay, broker) = Relay::in_front_of(rig.url()).await;
    let mut redis = RedisServer::start();
    let url = redis.url();
    let own = [
        ("amqp.url", broker.as_str()),
        ("ledger.kind", "redis"),
        ("ledger.url", url.expose_secret()),
        ("ledger.on_failure", "continue"),
    ];
    let ingress = rig.launch_role("ingress", &[&INGRESS, &own[..]].concat());
    let admin = Admin::of(&ingress).await;
    prometheus.scrape("edge", &admin).await;
    let flow = FlowCaller::of(&ingress, &admin).await;
    flow.accepted(1).await;
    redis.kill();
    let calls = async {
        for n in 2.. {
            flow.accepted(n).await;
        }
    };
    let ledger = tokio::select! {
        fired = prometheus.until_fires("InstantConnectLedgerFailing", "edge") => fired,
        () = calls => unreachable!(),
    };
    drop(relay);
    let disconnected = prometheus.until_fires("InstantConnectIngressDisconnected", "edge").await;
    ingress.kill();
    let missing = prometheus.until_fires("InstantConnectIngressMissing", "edge").await;
    vec![ledger, disconnected, missing]
}

/// Runs all faults at once.
pub(super) async fn all(prometheus: &Prometheus) -> BTreeSet<&'static str> {
    let fired = tokio::join!(
        webex(prometheus),
        events(prometheus),
        network(prometheus),
        blocked(prometheus),
        stuck(prometheus),
        ledger(prometheus),
        full(prometheus),
        stranded(prometheus),
        ingress(prometheus),
        edge(prometheus),
        receipts(prometheus),
    );
    let (first, second) =
        ([fired.0, fired.1, fired.2, fired.3, fired.4], [fired.5, fired.6, fired.7, fired.8, fired.9]);
    [first.concat(), second.concat(), fired.10].concat().into_iter().collect()
}
