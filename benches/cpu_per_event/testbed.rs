//! Broker, sandbox, collector, and the measured process.

use std::{
    fs::File,
    future::pending,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use instant_connect_sandbox::Handle;
use serde_json::json;
use testkit::{
    amqp::{Amqp, with_id},
    program::{self, Environment, with_settings},
    rig::{TOKEN, bind_sandbox, shared_broker},
    topology::delete_topology,
};
use tokio::time::{sleep, timeout};

use super::{contender::Contender, cost::Cost};

/// The address of the worker's metrics.
pub(crate) const ADMIN: &str = "127.0.0.1:19464";
/// Time limit of a round.
const ROUND_LIMIT: Duration = Duration::from_secs(600);

/// A sandbox, a collector, and its own exchanges and queues.
pub(crate) struct Testbed {
    sandbox: Handle,
    collector: String,
    url: String,
    amqp: Amqp,
    prefix: String,
    environment: Environment,
}

impl Testbed {
    /// A testbed whose APIs answer after `delay_ms`.
    pub(crate) async fn new(delay_ms: usize) -> Self {
        let url = shared_broker();
        let sandbox = bind_sandbox().await;
        let (handle, address) = (sandbox.handle(), sandbox.url());
        if delay_ms > 0 {
            handle.fault(format!("any:delay={delay_ms}ms").parse().unwrap());
        }
        tokio::spawn(sandbox.serve(pending()));
        let prefix = format!("icw-bench-{:08x}", fastrand::u32(..));
        let settings = [
            ("amqp.url", url.as_str()),
            ("instant_connect.url", address.as_str()),
            ("instant_connect.token", TOKEN),
            ("hosts.webex_url", address.as_str()),
            ("topology.prefix", &prefix),
        ];
        let environment = with_settings(Environment::new(), settings);
        let amqp = Amqp::connect(&url).await;
        Self { sandbox: handle, collector: collector().await, url, amqp, prefix, environment }
    }

    /// Measures `contender` while it processes `events` that are already queued.
    pub(crate) async fn serve(&self, contender: &Contender, events: usize) -> Cost {
        let declared = program::finished(&["topology", "--declare"], &self.environment).await;
        assert_eq!(declared.status, Some(0), "{declared:?}");
        self.publish(events).await;
        let folder = tempfile::tempdir().unwrap();
        let (program, argument) = contender.command();
        let mut command = Command::new(program);
        command.arg(argument);
        command
            .env_clear()
            .envs(self.environment.iter().cloned())
            .envs(contender.environment(&self.collector));
        let log = File::create(folder.path().join("log")).unwrap();
        command.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let began = Instant::now();
        let mut child = command.spawn().unwrap();
        let scraping = tokio::spawn(scrape(contender.has_metrics()));
        let done = async {
            while self.sandbox.counts().messages < events as u64 {
                tokio::select! {
                    () = self.sandbox.changed() => {}
                    () = sleep(Duration::from_secs(1)) => assert!(
                        child.try_wait().unwrap().is_none(),
                        "{} ended: {}", contender.name, std::fs::read_to_string(folder.path().join("log")).unwrap()
                    ),
                }
            }
        };
        timeout(ROUND_LIMIT, done).await.expect("all events are processed in time");
        let took = began.elapsed();
        let cost = Cost::of(child.id(), events, took);
        scraping.abort();
        child.kill().unwrap();
        child.wait().unwrap();
        cost
    }

    async fn publish(&self, events: usize) {
        let messages = (0..events).map(|n| {
            let event = json!({
                "sessionId": format!("visit-{n}"),
                "guests": [{"channel": "sms", "address": format!("+346{n:08}"), "name": "Ana"}],
                "experts": [{"email": format!("expert-{n}@example.com"), "name": "Dr Lee"}],
                "correlationId": format!("flow-{n}"),
                "attributes": {"resumeKey": format!("chat-{n}")},
            });
            let properties = with_id(&format!("event-{n}"))
                .with_delivery_mode(2)
                .with_content_type("application/json".into());
            (properties, event.to_string().into_bytes())
        });
        self.amqp.publish_all(&format!("{}.sessions", self.prefix), "session.start", messages).await;
    }

    /// Deletes the declared exchanges and queues.
    pub(crate) async fn clean_up(&self) {
        delete_topology(&self.url, std::slice::from_ref(&self.environment)).await;
    }
}

/// Starts a collector that accepts all traces. Returns its URL.
async fn collector() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(async |_: axum::body::Bytes| "");
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// Scrapes the metrics much more often than a Prometheus does.
async fn scrape(has_metrics: bool) {
    if !has_metrics {
        return;
    }
    let http = reqwest::Client::new();
    loop {
        sleep(Duration::from_secs(1)).await;
        // A failure is fine: the server may not listen yet, or the version has no metrics.
        if let Ok(answer) = http.get(format!("http://{ADMIN}/metrics")).send().await {
            _ = answer.bytes().await;
        }
    }
}
