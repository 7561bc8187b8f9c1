//! Broker, sandbox, collector, and the measured process.

use std::{
    env,
    fs::File,
    future::pending,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use instant_connect_sandbox::Handle;
use serde_json::json;
use testkit::{
    amqp::{Amqp, with_id},
    program::{self, Environment, with_settings},
    rig::{TOKEN, bind_sandbox, delete_topology, shared_broker},
};
use tokio::time::{sleep, timeout};

use super::{Contender, plain};

/// The address of the worker's metrics.
pub(crate) const ADMIN: &str = "127.0.0.1:19464";
/// Time limit of a round.
const ROUND_LIMIT: Duration = Duration::from_secs(600);

/// The cost of a round.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    /// User and system time per event, in milliseconds.
    pub(crate) cpu_ms: f64,
    pub(crate) per_second: f64,
    /// Peak resident memory.
    pub(crate) peak_mib: u32,
}

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
    pub(crate) async fn new() -> Self {
        let url = shared_broker();
        let sandbox = bind_sandbox().await;
        let (handle, address) = (sandbox.handle(), sandbox.url());
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
    pub(crate) async fn serve(&self, contender: Contender, events: usize) -> Cost {
        let declared = program::finished(&["topology", "--declare"], &self.environment).await;
        assert_eq!(declared.status, Some(0), "{declared:?}");
        self.publish(events).await;
        let folder = tempfile::tempdir().unwrap();
        let (program, argument) = if contender == Contender::Plain {
            (env::current_exe().unwrap(), plain::FLAG)
        } else {
            (program::executable(), "run")
        };
        let mut command = Command::new(program);
        command.arg(argument);
        command.env_clear().envs(self.environment.iter().cloned()).envs(contender.settings(&self.collector));
        let log = File::create(folder.path().join("log")).unwrap();
        command.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let began = Instant::now();
        let mut child = command.spawn().unwrap();
        let scraping = tokio::spawn(scrape(contender));
        let done = async {
            while self.sandbox.counts().messages < events as u64 {
                tokio::select! {
                    () = self.sandbox.changed() => {}
                    () = sleep(Duration::from_secs(1)) => assert!(
                        child.try_wait().unwrap().is_none(),
                        "{} ended: {}", contender.name(), std::fs::read_to_string(folder.path().join("log")).unwrap()
                    ),
                }
            }
        };
        timeout(ROUND_LIMIT, done).await.expect("all events are processed in time");
        let took = began.elapsed();
        let cost = cost(&child, events, took);
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
async fn scrape(contender: Contender) {
    if matches!(contender, Contender::Plain | Contender::Off) {
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

/// The cost as Linux counts it: `utime` and `stime` in hundredths of a second (proc(5)), and peak memory.
fn cost(child: &Child, events: usize, took: Duration) -> Cost {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap();
    let stat = read("stat");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u32 = [fields[11], fields[12]].iter().map(|ticks| ticks.parse::<u32>().unwrap()).sum();
    let status = read("status");
    let peak = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let peak_kib: u32 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    let events = f64::from(u32::try_from(events).unwrap());
    Cost {
        cpu_ms: f64::from(ticks) * 10.0 / events,
        per_second: events / took.as_secs_f64(),
        peak_mib: peak_kib / 1024,
    }
}
