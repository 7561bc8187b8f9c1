//! Broker, sandbox, collector, and the measured process.

use std::{
    env,
    fs::File,
    future::pending,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use instant_connect_sandbox::{Handle, Sandbox, SandboxOptions};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeleteOptions},
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{Contender, plain};

const WORKER: &str = env!("CARGO_BIN_EXE_instant-connect-worker");
const TOKEN: &str = "bench-token";
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
    channel: Channel,
    _connection: Connection,
    prefix: String,
    environment: Vec<(&'static str, String)>,
}

impl Testbed {
    pub(crate) async fn new() -> Self {
        let url =
            env::var("ICW_AMQP__URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned());
        let options = SandboxOptions {
            listen: "127.0.0.1:0".parse().unwrap(),
            allow_any_address: false,
            token: TOKEN.into(),
            password: "bench".into(),
            base_url: Some("https://instant.webex.com/visit/".parse().unwrap()),
        };
        let sandbox = Sandbox::bind(options).await.unwrap();
        let (handle, address) = (sandbox.handle(), sandbox.url());
        tokio::spawn(sandbox.serve(pending()));
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let prefix = format!("icw-bench-{:08x}", fastrand::u32(..));
        let environment = vec![
            ("ICW_AMQP__URL", url),
            ("ICW_INSTANT_CONNECT__URL", address.to_string()),
            ("ICW_INSTANT_CONNECT__TOKEN", TOKEN.to_owned()),
            ("ICW_HOSTS__WEBEX_URL", address.to_string()),
            ("ICW_TOPOLOGY__PREFIX", prefix.clone()),
        ];
        Self {
            sandbox: handle,
            collector: collector().await,
            channel,
            _connection: connection,
            prefix,
            environment,
        }
    }

    /// Measures `contender` while it processes `events` that are already queued.
    pub(crate) async fn serve(&self, contender: Contender, events: usize) -> Cost {
        self.worker(&["topology", "--declare"]);
        self.publish(events).await;
        let folder = tempfile::tempdir().unwrap();
        let (program, argument) = if contender == Contender::Plain {
            (env::current_exe().unwrap(), plain::FLAG)
        } else {
            (WORKER.into(), "run")
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
        let exchange = format!("{}.sessions", self.prefix);
        for n in 0..events {
            let event = json!({
                "sessionId": format!("visit-{n}"),
                "guests": [{"channel": "sms", "address": format!("+346{n:08}"), "name": "Ana"}],
                "experts": [{"email": format!("expert-{n}@example.com"), "name": "Dr Lee"}],
                "correlationId": format!("flow-{n}"),
                "attributes": {"resumeKey": format!("chat-{n}")},
            });
            let properties = BasicProperties::default()
                .with_delivery_mode(2)
                .with_message_id(format!("event-{n}").into())
                .with_content_type("application/json".into());
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let body = event.to_string();
            self.channel
                .basic_publish(
                    exchange.as_str().into(),
                    "session.start".into(),
                    options,
                    body.as_bytes(),
                    properties,
                )
                .await
                .unwrap();
        }
        assert!(self.channel.wait_for_confirms().await.unwrap().is_empty(), "all events are routed");
    }

    /// Runs another subcommand.
    fn worker(&self, arguments: &[&str]) -> Vec<u8> {
        let output =
            Command::new(WORKER).args(arguments).envs(self.environment.iter().cloned()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Deletes the declared exchanges and queues.
    pub(crate) async fn clean_up(&self) {
        let plan: Value = serde_json::from_slice(&self.worker(&["topology", "--json"])).unwrap();
        let names = |kind: &str| -> Vec<String> {
            let things = plan[kind].as_array().unwrap();
            things.iter().map(|thing| thing["name"].as_str().unwrap().to_owned()).collect()
        };
        for queue in names("queues") {
            self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
        }
        for exchange in names("exchanges") {
            self.channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await.unwrap();
        }
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
