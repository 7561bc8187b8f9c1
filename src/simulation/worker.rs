//! The worker under test: the real stages, consumers, settlers, breakers, clients and ledger, connected to the
//! simulated world.

use std::{path::Path, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    broker::{HOSTS, SESSIONS, SimulatedConnection},
    checker::{CheckedRules, Checker, RATE_LIMIT_WAIT},
    events::ALLOWED,
    network::{Api, BODY_BYTES_MAX, SimulatedApi},
    plan::WorldPlan,
    publishing, store,
    world::Life,
};
use crate::{
    breaker,
    broker::{
        consumer::{Consumer, ConsumerLimits, ConsumerParts},
        publisher::Publisher,
        settle::{Settler, SettlerParts},
        topology::{Topology, TopologyConfig},
        tries::Tries,
    },
    contract::{
        stage::StageDef,
        start_session::{SessionRules, Vertical},
    },
    instant_connect::{
        self,
        request::{Crypto, LinkOptions},
        response::LinkRules,
    },
    ledger::Ledger,
    retry::{self, RetryPolicy},
    stages::{self, Deduplicator, HostStage, LinkStage, OnFailure, Retention, Stage},
    state::WorkerState,
    telemetry::traces::Tracer,
    upstream::{self, TokenSource, Upstream},
    webex,
};

/// Time limit of a whole call.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(15);

/// One life of the worker.
pub(super) struct Worker {
    pub(super) life: Life,
    link: Arc<Consumer<LinkStage>>,
    host: Arc<Consumer<HostStage>>,
    /// One sender per consumer, because the seed does not determine which of two receivers wakes first.
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    tries: Tries,
    grace: Duration,
}

impl Worker {
    pub(super) fn start(life: Life, plan: &WorldPlan, rules: &CheckedRules, token: &Path) -> Self {
        let (metrics, whole) = (life.world.lock().metrics.clone(), WorkerState::default());
        let ledger = store::ledger(life.clone());
        let keep = Retention {
            margin: jiff::SignedDuration::from_hours(1),
            max: jiff::SignedDuration::from_hours(100),
        };
        let deduplicator =
            |stage| Deduplicator::new(ledger.clone(), OnFailure::Wait, keep, metrics.ledger(stage));
        let (publisher, jobs) = Publisher::queue();
        let publishing = tokio::spawn(publishing::run(life.clone(), jobs));
        let settler = |queue: &str, stage| {
            Settler::new(SettlerParts {
                publisher: publisher.clone(),
                tracer: Tracer::default(),
                topology: topology(plan),
                queue: queue.to_owned(),
                limit: Duration::from_secs(30),
                retry: policy(rules),
                clock: rules.clock.clone(),
                metrics: metrics.stage(stage),
            })
        };
        let tries = Tries::new(ledger.clone());
        let stop = CancellationToken::new();
        let stage = &stages::LINK;
        let link = Consumer::new(ConsumerParts {
            stage: LinkStage::new(links(&life, token, &ledger), session_rules(rules), deduplicator(stage)),
            queue: SESSIONS.to_owned(),
            settler: settler(SESSIONS, stage),
            limits: limits(plan),
            tries: tries.clone(),
            state: whole.stage(stage.name),
            metrics: metrics.stage(stage),
            stop: stop.clone(),
        });
        let stage = &stages::HOST;
        let host = Consumer::new(ConsumerParts {
            stage: HostStage::new(messages(&life, token, &ledger), link_rules(), deduplicator(stage)),
            queue: HOSTS.to_owned(),
            settler: settler(HOSTS, stage),
            limits: limits(plan),
            tries: tries.clone(),
            state: whole.stage(stage.name),
            metrics: metrics.stage(stage),
            stop: stop.clone(),
        });
        let (link, host) = (Arc::new(link), Arc::new(host));
        let tasks = vec![
            publishing,
            tokio::spawn(supervise(life.clone(), Arc::clone(&link))),
            tokio::spawn(supervise(life.clone(), Arc::clone(&host))),
            tokio::spawn(watch(life.clone(), Arc::clone(&link), SimulatedApi::InstantConnect)),
            tokio::spawn(watch(life.clone(), Arc::clone(&host), SimulatedApi::Messages)),
        ];
        Self { life, link, host, stop, tasks, tries, grace: plan.grace }
    }

    /// Shuts down as SIGTERM does: stops consuming, finishes work within the grace, requeues the rest.
    pub(super) async fn shut_down(&self) {
        self.stop.cancel();
        let idle = async {
            self.link.idle().await;
            self.host.idle().await;
        };
        if timeout(self.grace, idle).await.is_err() {
            self.link.abort();
            self.host.abort();
        }
        if timeout(Duration::from_secs(1), self.tries.idle()).await.is_err() {
            // The ledger was too slow.
            self.life.world.lock().checker.tries_in_doubt += 1;
        }
        self.life.end("shutdown");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.link.abort();
        self.host.abort();
    }
}

/// Keeps one consumer connected, as the worker's supervisor does.
async fn supervise<S: Stage>(life: Life, consumer: Arc<Consumer<S>>) {
    let mut tries = 0;
    while !consumer.is_stopped() {
        if let Ok(connection) = SimulatedConnection::open(&life).await {
            let ended = tokio::select! {
                biased;
                ended = consumer.consume(&connection) => ended,
                () = connection.0.gone() => {
                    sleep(Duration::from_secs(1)).await;
                    Err(crate::broker::connection::BrokerError::Ended("gone".to_owned()))
                }
            };
            if ended.is_ok() {
                break;
            }
            tries = 0;
        }
        tries += 1;
        let wait =
            retry::reconnect_wait(Duration::from_millis(100), Duration::from_secs(5), tries, fastrand::f64());
        sleep(wait).await;
    }
    consumer.idle().await;
}

/// Reports each opening and closing of a breaker to the rules.
async fn watch<S: Stage>(life: Life, consumer: Arc<Consumer<S>>, which: SimulatedApi) {
    loop {
        consumer.breaker().opened().await;
        rule(&life, |checker| checker.breaker_opened(which));
        consumer.breaker().closed().await;
        rule(&life, |checker| checker.breaker_closed(which));
    }
}

fn rule(life: &Life, rule: impl FnOnce(&mut Checker) -> Result<(), String>) {
    if !life.is_over() {
        let mut state = life.world.lock();
        let rule = rule(&mut state.checker);
        state.must(rule);
    }
}

/// Configuration, parsed as from a file.
fn config<T: DeserializeOwned>(said: serde_json::Value) -> T {
    serde_json::from_value(said).unwrap_or_else(|error| unreachable!("a constant: {error}"))
}

fn topology(plan: &WorldPlan) -> Topology {
    topology_of(stages::ALL, &plan.delays)
}

pub(super) fn topology_of(table: &[&'static StageDef], delays: &[Duration]) -> Topology {
    let said = json!({"prefix": "sim", "declare": "off", "queue_length_max": 1_000_000});
    Topology::new(&config::<TopologyConfig>(said), table, delays)
}

pub(super) fn policy(rules: &CheckedRules) -> RetryPolicy {
    RetryPolicy {
        initial: Duration::from_secs(1),
        max: Duration::from_secs(600),
        multiplier: 3.0,
        jitter: 0.2,
        attempts: rules.attempts,
        total: rules.total,
        // The topology of the plan has its own delays.
        delays: config(json!(["1s"])),
    }
}

pub(super) fn limits(plan: &WorldPlan) -> ConsumerLimits {
    ConsumerLimits {
        prefetch: plan.prefetch,
        concurrency: plan.concurrency,
        bytes: 1024 * 1024,
        deliveries_max: plan.deliveries_max,
        delivery_timeout: plan.delivery_timeout,
        timeout: Duration::from_secs(30),
        breaker: breaker::BreakerPolicy {
            failures: 5,
            probe_initial: Duration::from_secs(1),
            probe_max: Duration::from_secs(30),
        },
    }
}

fn session_rules(rules: &CheckedRules) -> SessionRules {
    SessionRules {
        subject_prefix: String::new(),
        vertical: Vertical::Hc,
        host_login: true,
        link_lifetime: jiff::SignedDuration::try_from(rules.lifetime).unwrap_or(jiff::SignedDuration::MAX),
        devices: config(json!([ALLOWED])),
    }
}

fn link_rules() -> LinkRules {
    LinkRules {
        allowed_base_urls: vec![super::answers::BASE_URL.to_owned()],
        long_url_base: "https://instant.webex.com".to_owned(),
    }
}

fn upstream(name: &'static str, which: SimulatedApi, life: &Life, token: &Path, ledger: &Ledger) -> Upstream {
    let limits = upstream::UpstreamLimits {
        connect_timeout: Duration::from_secs(5),
        timeout: CALL_LIMIT,
        body_bytes_max: BODY_BYTES_MAX,
        rate_limit_wait: RATE_LIMIT_WAIT,
    };
    let api = Api { life: life.clone(), which };
    let metrics = life.world.lock().metrics.upstream(match which {
        SimulatedApi::InstantConnect => stages::LINK.upstream,
        SimulatedApi::Messages => stages::HOST.upstream,
    });
    let (token, clock) = (TokenSource::file(token.to_owned()), ledger.clock().clone());
    let upstream = Upstream::over(Box::new(api), name, token, limits, metrics, clock);
    upstream.sharing_rate_limits_in(ledger.clone(), which.name())
}

fn url(text: &str) -> url::Url {
    text.parse().unwrap_or_else(|_| unreachable!("a constant"))
}

fn links(life: &Life, token: &Path, ledger: &Ledger) -> instant_connect::InstantConnectClient {
    let upstream = upstream("Instant Connect", SimulatedApi::InstantConnect, life, token, ledger);
    let options = LinkOptions { aud: "aud".to_owned(), short_urls: true, crypto: Crypto::default() };
    let endpoint = url("https://links.sim.example.com/api/v2/joseencrypt");
    instant_connect::InstantConnectClient::new(upstream, endpoint, options, link_rules())
}

fn messages(life: &Life, token: &Path, ledger: &Ledger) -> webex::WebexClient {
    let upstream = upstream("Webex Messages", SimulatedApi::Messages, life, token, ledger);
    webex::WebexClient::new(upstream, url("https://messages.sim.example.com/v1/messages"))
}
