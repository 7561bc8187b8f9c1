//! The worker under test: the real stages, consumers, settlers, breakers, clients and ledger, connected to the
//! simulated world.
//!
//! - `settings`: its configuration; `clients`: its stages and the clients of the APIs
//! - `consumer`: the consumer of a stage, supervised and watched
//! - `ingress`: what answers HTTP requests, without the listener
//! - `tap`: what its publisher replies

mod clients;
mod consumer;
mod ingress;
mod settings;
mod tap;

use std::{path::Path, pin::pin, sync::Arc, time::Duration};

use instant_connect_worker::{
    broker::{publisher::Publisher, topology::Topology, tries::Tries},
    ledger::Ledger,
    state::WorkerState,
    telemetry::metrics::Metrics,
};
use tokio::{
    task::{AbortHandle, JoinHandle},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::consumer::StageConsumer;
pub(crate) use self::{
    ingress::{CLIENT, CLIENT_TOKEN},
    settings::{limits, numbers, policy, queues, queues_of, topology_of},
};
use crate::{
    broker::SimulatedBroker,
    checker::{CheckedRules, Checker},
    plan::WorldPlan,
    storage,
    world::Life,
};

/// Longest time in which an idle worker stops, with slow replies of the broker.
const STOP_MAX: Duration = Duration::from_secs(15);
/// Time limit of a whole call.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(15);

/// Builds the consumer of a stage; `None` if the worker has no such stage.
type Build = fn(&LifeParts<'_>) -> Option<Box<dyn StageConsumer>>;

/// Every stage, and how it is built.
const BUILDERS: &[Build] = &[
    |parts| Some(parts.consumer(parts.link_stage())),
    |parts| Some(parts.consumer(parts.host_stage())),
    |parts| Some(parts.consumer(parts.sms_stage(parts.plan.senders.as_ref()?))),
    |parts| Some(parts.consumer(parts.whatsapp_stage(parts.plan.senders.as_ref()?))),
];

/// One life of the worker.
pub(crate) struct Worker {
    pub(crate) life: Life,
    consumers: Vec<Box<dyn StageConsumer>>,
    stop: CancellationToken,
    /// The supervised consumers.
    consuming: Vec<JoinHandle<()>>,
    tasks: Vec<AbortHandle>,
    tries: Tries,
    grace: Duration,
}

/// What the consumers of one life share.
struct LifeParts<'a> {
    life: &'a Life,
    plan: &'a WorldPlan,
    rules: &'a CheckedRules,
    /// The file with the token.
    token: &'a Path,
    ledger: &'a Ledger,
    topology: &'a Topology,
    publisher: Publisher,
    metrics: &'a Metrics,
    state: &'a WorkerState,
    tries: &'a Tries,
    stop: &'a CancellationToken,
}

impl Worker {
    pub(crate) fn start(life: Life, plan: &WorldPlan, rules: &CheckedRules, token: &Path) -> Self {
        let (metrics, state) = (life.world.lock().metrics.clone(), WorkerState::default());
        let (ledger, topology) = (storage::ledger(life.clone()), settings::topology(plan));
        let broker = Arc::new(SimulatedBroker(life.clone()));
        let (shown, random) = (state.publishing().clone(), life.world.worker_random());
        let (publisher, publishing) = Publisher::start(
            Arc::clone(&broker),
            topology.clone(),
            shown,
            metrics.publishing(),
            random.clone(),
        );
        let (publisher, tapped) = tap::tap(life.clone(), publisher);
        let (tries, stop) = (Tries::new(ledger.clone(), random), CancellationToken::new());
        let parts = LifeParts {
            life: &life,
            plan,
            rules,
            token,
            ledger: &ledger,
            topology: &topology,
            publisher,
            metrics: &metrics,
            state: &state,
            tries: &tries,
            stop: &stop,
        };
        let consumers: Vec<_> = BUILDERS.iter().filter_map(|build| build(&parts)).collect();
        let ingress = plan.senders.as_ref().map(|senders| Arc::new(parts.ingress(senders)));
        life.world.lock().ingress = ingress;
        let consuming = consumers
            .iter()
            .map(|consumer| tokio::spawn(consumer.run(Arc::clone(&broker), topology.clone())))
            .collect();
        let watching = consumers.iter().map(|consumer| tokio::spawn(consumer.watch(life.clone())));
        let watching = watching.map(|watching| watching.abort_handle());
        let tasks = [publishing.abort_handle(), tapped.abort_handle()].into_iter().chain(watching).collect();
        Self { life, consumers, stop, consuming, tasks, tries, grace: plan.grace }
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
            let in_progress: usize = self.consumers.iter().map(|consumer| consumer.in_progress()).sum();
            if in_progress == 0 && timeout(STOP_MAX, idle).await.is_err() {
                rule(&self.life, |_| Err("idle, but the worker does not stop".to_owned()));
            }
            self.life.world.lock().checker.draining = false;
            self.consumers.iter().for_each(|consumer| consumer.abort());
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
        self.tasks.iter().for_each(AbortHandle::abort);
        self.consuming.iter().for_each(JoinHandle::abort);
        self.consumers.iter().for_each(|consumer| consumer.abort());
    }
}

/// Checks a rule, if the life is not over.
fn rule(life: &Life, rule: impl FnOnce(&mut Checker) -> Result<(), String>) {
    if !life.is_over() {
        let mut state = life.world.lock();
        let rule = rule(&mut state.checker);
        state.must(rule);
    }
}
