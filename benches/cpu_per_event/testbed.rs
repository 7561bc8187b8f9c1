//! Broker, fake APIs, collector, and a topology of its own for each round.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use lapin::BasicProperties;
use serde_json::json;
use testkit::{
    amqp::{Amqp, with_id},
    program::{self, Environment, with_settings},
    rig::{TOKEN, shared_broker},
    topology::delete_topology,
};
use tokio::time::sleep;

use super::{apis::Apis, contender::Contender, cost::Cost, fake, process::Process};

/// Time in which the contender settles its last messages, besides the delay of the APIs.
const SETTLES: Duration = Duration::from_millis(300);

/// Fake APIs, a collector, and exchanges and queues of its own.
pub(crate) struct Testbed {
    pub(crate) apis: Apis,
    collector: String,
    pub(crate) url: String,
    amqp: Amqp,
    prefix: String,
    environment: Environment,
    delay: Duration,
    concurrency: usize,
}

impl Testbed {
    /// A testbed whose APIs respond after `delay_ms`, with `concurrency` in progress in each stage.
    pub(crate) async fn new(delay_ms: usize, concurrency: usize) -> Self {
        let url = shared_broker();
        let apis = Apis::start(delay_ms);
        let prefix = format!("icw-bench-{:08x}", fastrand::u32(..));
        let at_once = concurrency.to_string();
        let settings = [
            ("amqp.url", url.as_str()),
            ("amqp.prefetch", &at_once),
            ("amqp.concurrency", &at_once),
            ("instant_connect.url", &apis.url),
            ("instant_connect.token", TOKEN),
            ("hosts.webex_url", &apis.url),
            ("topology.prefix", &prefix),
        ];
        let environment = with_settings(Environment::new(), settings);
        let declared = program::finished(&["topology", "--declare"], &environment).await;
        assert_eq!(declared.status, Some(0), "{declared:?}");
        let amqp = Amqp::connect(&url).await;
        let delay = Duration::from_millis(delay_ms.try_into().unwrap());
        Self { apis, collector: collector().await, url, amqp, prefix, environment, delay, concurrency }
    }

    /// The name of a queue or an exchange.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    pub(crate) fn start(&self, contender: &Contender) -> Process {
        Process::start(contender, &self.environment, &self.collector)
    }

    /// Publishes events and waits until `process` has processed them, so that its connections exist. Returns their number.
    pub(crate) async fn warm_up(&self, process: &mut Process) -> usize {
        let events = 2 * self.concurrency;
        self.publish(0..events).await;
        process.until(self.apis.until(events)).await;
        self.settle().await;
        events
    }

    async fn settle(&self) {
        sleep(self.delay + SETTLES).await;
    }

    /// Measures `contender` while it processes `events` that are already queued.
    pub(crate) async fn serve(&self, contender: &Contender, events: usize) -> Cost {
        let mut process = self.start(contender);
        let before = self.warm_up(&mut process).await;
        process.pause();
        self.publish(before..before + events).await;
        let start = process.snapshot();
        let began = Instant::now();
        process.resume();
        process.until(self.apis.until(before + events)).await;
        let took = began.elapsed();
        self.settle().await;
        process.snapshot().since(&start, events, took)
    }

    /// Publishes the events with these numbers, with confirms.
    pub(crate) async fn publish(&self, numbers: Range<usize>) {
        self.amqp.publish_all(&self.name("sessions"), KEY, numbers.map(event)).await;
    }

    /// Deletes the declared exchanges and queues.
    pub(crate) async fn clean_up(self) {
        delete_topology(&self.url, std::slice::from_ref(&self.environment)).await;
    }
}

/// The routing key of events.
pub(crate) const KEY: &str = "session.start";
/// The part of a session's id before the event's number.
pub(crate) const SESSION: &str = "visit-";

/// The properties and the body of event number `n`.
pub(crate) fn event(n: usize) -> (BasicProperties, Vec<u8>) {
    let event = json!({
        "sessionId": format!("{SESSION}{n}"),
        "guests": [{"channel": "sms", "address": format!("+346{n:08}"), "name": "Ana"}],
        "experts": [{"email": format!("{}{n}@example.com", fake::EXPERT), "name": "Dr Lee"}],
        "correlationId": format!("flow-{n}"),
        "attributes": {"resumeKey": format!("chat-{n}")},
    });
    let id = with_id(&format!("event-{n}"));
    (id.with_delivery_mode(2).with_content_type("application/json".into()), event.to_string().into_bytes())
}

/// Starts a collector that accepts all traces. Returns its URL.
async fn collector() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(async |_: axum::body::Bytes| "");
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}
