//! One consumer with a stage that the test provides, on the simulated broker.

mod one_at_a_time;
mod requeued;
mod third_stage;

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use instant_connect_worker::{
    broker::{
        consumer::{Consumer, ConsumerLimits, ConsumerParts},
        port::Broker,
        publisher::Publisher,
        settle::Settler,
        topology::TopologyError,
        tries::Tries,
    },
    contract::stage::StageDef,
    random::Random,
    stages::{self, Stage},
    state::{PublishState, StageState},
    telemetry::{metrics::Metrics, traces::Tracer},
};
use jiff::Timestamp;
use lapin::BasicProperties;
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{SimulatedBroker, SimulatedConnection, Stored},
    checker::{CheckedRules, Checker},
    history::CALM_MAX,
    plan::WorldPlan,
    storage,
    time::clock_at,
    worker,
    world::World,
};

/// A message with this many deliveries is set aside.
pub(super) const DELIVERIES_MAX: u32 = 5;

pub(super) struct SingleConsumer<S> {
    pub(super) consumer: Arc<Consumer<S>>,
    pub(super) state: StageState,
    pub(super) all_metrics: Metrics,
    pub(super) world: World,
    queue: String,
    publishing: JoinHandle<Result<(), TopologyError>>,
    connection: SimulatedConnection,
}

impl<S: Stage> SingleConsumer<S> {
    /// Creates a world without faults, except those that `plan_for` adds and the stage causes.
    pub(super) async fn new(
        begin: Timestamp,
        plan_for: impl FnOnce(&mut WorldPlan),
        limits: impl FnOnce(ConsumerLimits) -> ConsumerLimits,
        stage: impl FnOnce(World) -> S,
    ) -> Self {
        Self::of_table(stages::GuestsDelivery::Amqp.stages(), begin, plan_for, limits, stage).await
    }

    /// The same with another table of stages, which contains the stage.
    pub(super) async fn of_table(
        table: &[&'static StageDef],
        begin: Timestamp,
        plan_for: impl FnOnce(&mut WorldPlan),
        limits: impl FnOnce(ConsumerLimits) -> ConsumerLimits,
        stage: impl FnOnce(World) -> S,
    ) -> Self {
        let mut random = Rng::with_seed(1);
        let mut plan = WorldPlan::new(&mut random);
        plan.calm();
        plan_for(&mut plan);
        let rules = CheckedRules {
            clock: clock_at(begin),
            begin,
            attempts: 1,
            total: CALM_MAX,
            lifetime: CALM_MAX,
            deliveries_max: DELIVERIES_MAX,
            first_delay: Duration::ZERO,
            delivery_timeout: Duration::ZERO,
            senders: None,
        };
        let timeout = Duration::from_secs(1);
        let limits =
            limits(ConsumerLimits { deliveries_max: DELIVERIES_MAX, timeout, ..worker::limits(&plan) });
        let checker = Checker::new(Vec::new(), rules.clone());
        let world = World::new(plan.clone(), random, Random::with_seed(1), checker, String::new(), false);
        let life = world.begin_life();
        let all_metrics = Metrics::new(table, &plan.delays).unwrap();
        let metrics = all_metrics.stage(S::DEF);
        world.lock().replace_broker(worker::queues_of(table, &plan.delays));
        let topology = worker::topology_of(table, &plan.delays, true);
        let broker = Arc::new(SimulatedBroker(life.clone()));
        let (shown, publishing) = (PublishState::default(), all_metrics.publishing());
        let (publisher, publishing) =
            Publisher::start(Arc::clone(&broker), topology.clone(), shown, publishing, world.worker_random());
        let queue = topology.queue(S::DEF.queue);
        let settler = Settler {
            publisher,
            tracer: Tracer::default(),
            topology,
            queue: queue.clone(),
            limit: limits.timeout,
            retry: worker::policy(&rules),
            clock: rules.clock.clone(),
            random: world.worker_random(),
            metrics: metrics.clone(),
        };
        let stage = stage(world.clone());
        let tries = Tries::new(storage::ledger(life.clone()), world.worker_random());
        let seen = StageState::default();
        let consumer = Consumer::new(ConsumerParts {
            stage,
            queue: queue.clone(),
            settler,
            limits,
            tries,
            state: seen.clone(),
            metrics,
            stop: CancellationToken::new(),
        });
        let connection = broker.connect("consume").await.unwrap();
        Self { consumer: Arc::new(consumer), state: seen, all_metrics, world, queue, publishing, connection }
    }

    /// Puts a message into its queue.
    pub(super) fn store(&self) {
        let message = Stored::new(BasicProperties::default(), Arc::from(&b"{}"[..]));
        self.world.lock().broker().store(&self.world, &self.queue, message);
    }

    /// Consumes until no message is left. Returns false if the time limit passed first.
    pub(super) async fn settles_all(&self) -> bool {
        let settled = async {
            while !self.world.lock().broker().idle() {
                sleep(Duration::from_secs(1)).await;
            }
        };
        let ended = tokio::time::timeout(CALM_MAX, async {
            tokio::select! {
                ended = self.consumer.consume(&self.connection) => panic!("{ended:?}"),
                () = settled => {}
            }
        });
        let in_time = ended.await.is_ok();
        self.publishing.abort();
        in_time
    }
}
