//! The worker under test: the real stages, consumers, settlers, breakers, clients and ledger, connected to the
//! simulated world.

use std::{path::Path, pin::pin, sync::Arc, time::Duration};

use instant_connect_worker::{
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
    retry::RetryPolicy,
    stages::{self, Deduplicator, HostStage, LinkStage, OnFailure, Retention, Stage},
    state::WorkerState,
    telemetry::{metrics::Metrics, traces::Tracer},
    upstream::{self, TokenSource, Upstream},
    webex,
    worker::supervise::supervise,
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    broker::{SimulatedBroker, SimulatedQueues},
    checker::{CheckedRules, Checker, RATE_LIMIT_WAIT},
    events::ALLOWED,
    network::{Api, BODY_BYTES_MAX, SimulatedApi},
    plan::WorldPlan,
    storage, tap,
    world::Life,
};

/// Longest time in which an idle worker stops, with slow replies of the broker.
const STOP_MAX: Duration = Duration::from_secs(15);
/// Time limit of a whole call.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(15);

/// One life of the worker.
pub(crate) struct Worker {
    pub(crate) life: Life,
    link: Arc<Consumer<LinkStage>>,
    host: Arc<Consumer<HostStage>>,
    /// One sender per consumer, because the seed does not determine which of two receivers wakes first.
    stop: CancellationToken,
    /// The supervised consumers.
    consuming: [JoinHandle<()>; 2],
    tasks: Vec<JoinHandle<()>>,
    tries: Tries,
    grace: Duration,
}

/// What the consumers of one life share.
struct LifeParts<'a> {
    plan: &'a WorldPlan,
    rules: &'a CheckedRules,
    topology: &'a Topology,
    publisher: Publisher,
    metrics: &'a Metrics,
    state: &'a WorkerState,
    tries: &'a Tries,
    stop: &'a CancellationToken,
}

impl LifeParts<'_> {
    fn consumer<S: Stage>(&self, stage: S) -> Arc<Consumer<S>> {
        let (queue, metrics) = (self.topology.queue(S::DEF.queue), self.metrics.stage(S::DEF));
        let settler = Settler::new(SettlerParts {
            publisher: self.publisher.clone(),
            tracer: Tracer::default(),
            topology: self.topology.clone(),
            queue: queue.clone(),
            limit: Duration::from_secs(30),
            retry: policy(self.rules),
            clock: self.rules.clock.clone(),
            metrics: metrics.clone(),
        });
        Arc::new(Consumer::new(ConsumerParts {
            stage,
            queue,
            settler,
            limits: limits(self.plan),
            tries: self.tries.clone(),
            state: self.state.stage(S::DEF.name),
            metrics,
            stop: self.stop.clone(),
        }))
    }
}

impl Worker {
    pub(crate) fn start(life: Life, plan: &WorldPlan, rules: &CheckedRules, token: &Path) -> Self {
        let (metrics, whole) = (life.world.lock().metrics.clone(), WorkerState::default());
        let ledger = storage::ledger(life.clone());
        let keep = Retention {
            margin: jiff::SignedDuration::from_hours(1),
            max: jiff::SignedDuration::from_hours(100),
        };
        let deduplicator =
            |stage| Deduplicator::new(ledger.clone(), OnFailure::Wait, keep, metrics.ledger(stage));
        let topology = topology(plan);
        let broker = Arc::new(SimulatedBroker(life.clone()));
        let shown = whole.publishing().clone();
        let (publisher, publishing) =
            Publisher::start(Arc::clone(&broker), topology.clone(), shown, metrics.publishing());
        let (publisher, tapped) = tap::tap(life.clone(), publisher);
        let (tries, stop) = (Tries::new(ledger.clone()), CancellationToken::new());
        let parts = LifeParts {
            plan,
            rules,
            topology: &topology,
            publisher,
            metrics: &metrics,
            state: &whole,
            tries: &tries,
            stop: &stop,
        };
        let client = links(&life, token, &ledger);
        let link = parts.consumer(LinkStage::new(client, session_rules(rules), deduplicator(&stages::LINK)));
        let client = messages(&life, token, &ledger);
        let host = parts.consumer(HostStage::new(client, link_rules(), deduplicator(&stages::HOST)));
        let consuming = [
            tokio::spawn(run(Arc::clone(&broker), topology.clone(), Arc::clone(&link))),
            tokio::spawn(run(broker, topology, Arc::clone(&host))),
        ];
        let tasks = vec![
            publishing,
            tapped,
            tokio::spawn(watch(life.clone(), Arc::clone(&link), SimulatedApi::InstantConnect)),
            tokio::spawn(watch(life.clone(), Arc::clone(&host), SimulatedApi::Messages)),
        ];
        Self { life, link, host, stop, consuming, tasks, tries, grace: plan.grace }
    }

    /// Shuts down as SIGTERM does: stops consuming, finishes work within the grace, requeues the rest.
    pub(crate) async fn shut_down(&mut self) {
        self.life.world.lock().checker.draining = true;
        self.stop.cancel();
        let mut idle = pin!(async {
            for consuming in &mut self.consuming {
                _ = consuming.await;
            }
        });
        if timeout(self.grace, &mut idle).await.is_err() {
            if self.link.in_progress() + self.host.in_progress() == 0
                && timeout(STOP_MAX, idle).await.is_err()
            {
                rule(&self.life, |_| Err("idle, but the worker does not stop".to_owned()));
            }
            self.life.world.lock().checker.draining = false;
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
        self.tasks.iter().chain(&self.consuming).for_each(JoinHandle::abort);
        self.link.abort();
        self.host.abort();
    }
}

/// Runs one consumer until it is stopped.
async fn run<S: Stage>(broker: Arc<SimulatedBroker>, topology: Topology, consumer: Arc<Consumer<S>>) {
    let ended = supervise(&*broker, &topology, &consumer).await;
    rule(&broker.0, |_| ended.map_err(|error| format!("the worker gives up: {error}")));
}

/// Reports each opening and closing of a breaker to the rules.
async fn watch<S: Stage>(life: Life, consumer: Arc<Consumer<S>>, which: SimulatedApi) {
    let mut probes = consumer.probes();
    loop {
        _ = probes.wait_for(Option::is_some).await;
        rule(&life, |checker| checker.breaker_opened(which));
        _ = probes.wait_for(Option::is_none).await;
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
    topology_of(stages::ALL, &plan.delays, plan.creates)
}

pub(crate) fn topology_of(table: &[&'static StageDef], delays: &[Duration], creates: bool) -> Topology {
    let declare = if creates { "create" } else { "off" };
    let said = json!({"prefix": "sim", "declare": declare, "queue_length_max": 1_000_000});
    Topology::new(&config::<TopologyConfig>(said), table, delays)
}

/// The broker's queues for the stages of `table`, all declared.
pub(crate) fn queues_of(table: &[&'static StageDef], delays: &[Duration]) -> SimulatedQueues {
    let topology = topology_of(table, delays, true);
    SimulatedQueues::new(topology.plan(), table.iter().map(|stage| topology.queue(stage.queue)).collect())
}

pub(crate) fn policy(rules: &CheckedRules) -> RetryPolicy {
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

pub(crate) fn limits(plan: &WorldPlan) -> ConsumerLimits {
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

fn upstream(which: SimulatedApi, life: &Life, token: &Path, ledger: &Ledger) -> Upstream {
    let limits = upstream::UpstreamLimits {
        connect_timeout: Duration::from_secs(5),
        timeout: CALL_LIMIT,
        body_bytes_max: BODY_BYTES_MAX,
        rate_limit_wait: RATE_LIMIT_WAIT,
    };
    let api = Api { life: life.clone(), which };
    let api_of_stage = which.stage().upstream;
    let metrics = life.world.lock().metrics.upstream(api_of_stage);
    let (token, clock) = (TokenSource::file(token.to_owned()), life.world.clock());
    let upstream = Upstream::over(Box::new(api), api_of_stage.title, token, limits, metrics, clock);
    upstream.sharing_rate_limits_in(ledger.clone(), api_of_stage.key)
}

fn url(text: &str) -> url::Url {
    text.parse().unwrap_or_else(|_| unreachable!("a constant"))
}

fn links(life: &Life, token: &Path, ledger: &Ledger) -> instant_connect::InstantConnectClient {
    let upstream = upstream(SimulatedApi::InstantConnect, life, token, ledger);
    let options = LinkOptions { aud: "aud".to_owned(), short_urls: true, crypto: Crypto::default() };
    let endpoint = url("https://links.sim.example.com/api/v2/joseencrypt");
    instant_connect::InstantConnectClient::new(upstream, endpoint, options, link_rules())
}

fn messages(life: &Life, token: &Path, ledger: &Ledger) -> webex::WebexClient {
    let upstream = upstream(SimulatedApi::Messages, life, token, ledger);
    webex::WebexClient::new(upstream, url("https://messages.sim.example.com/v1/messages"))
}
