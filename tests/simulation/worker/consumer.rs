//! The consumer of a stage, under the real supervisor.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use instant_connect_worker::{
    broker::{
        consumer::{Consumer, ConsumerParts},
        settle::Settler,
        topology::Topology,
    },
    stages::Stage,
    telemetry::traces::Tracer,
    worker::supervise::supervise,
};

use super::{
    LifeParts, rule,
    settings::{limits, policy},
};
use crate::{broker::SimulatedBroker, world::Life};

/// The consumer of a stage, whichever it is.
pub(super) trait StageConsumer: Send + Sync {
    /// Consumes until a stop is requested.
    fn run(&self, broker: Arc<SimulatedBroker>, topology: Topology) -> BoxFuture<'static, ()>;
    /// Reports each opening and closing of the breaker to the rules.
    fn watch(&self, life: Life) -> BoxFuture<'static, ()>;
    /// Aborts the work in progress.
    fn abort(&self);
    /// Number of deliveries in progress.
    fn in_progress(&self) -> usize;
}

impl<S: Stage> StageConsumer for Arc<Consumer<S>> {
    fn run(&self, broker: Arc<SimulatedBroker>, topology: Topology) -> BoxFuture<'static, ()> {
        let consumer = Self::clone(self);
        Box::pin(async move {
            let ended = supervise(&*broker, &topology, &consumer).await;
            rule(&broker.0, |_| ended.map_err(|error| format!("the worker gives up: {error}")));
        })
    }

    fn watch(&self, life: Life) -> BoxFuture<'static, ()> {
        let consumer = Self::clone(self);
        Box::pin(async move {
            let mut probes = consumer.probes();
            loop {
                _ = probes.wait_for(Option::is_some).await;
                rule(&life, |checker| checker.breaker_opened(S::DEF));
                _ = probes.wait_for(Option::is_none).await;
                rule(&life, |checker| checker.breaker_closed(S::DEF));
            }
        })
    }

    fn abort(&self) {
        Consumer::abort(self);
    }

    fn in_progress(&self) -> usize {
        Consumer::in_progress(self)
    }
}

impl LifeParts<'_> {
    pub(super) fn consumer<S: Stage>(&self, stage: S) -> Box<dyn StageConsumer> {
        let (queue, metrics) = (self.topology.queue(S::DEF.queue), self.metrics.stage(S::DEF));
        let settler = Settler {
            publisher: self.publisher.clone(),
            tracer: Tracer::default(),
            topology: self.topology.clone(),
            queue: queue.clone(),
            limit: Duration::from_secs(30),
            retry: policy(self.rules),
            clock: self.rules.clock.clone(),
            random: self.life.world.worker_random(),
            metrics: metrics.clone(),
        };
        Box::new(Arc::new(Consumer::new(ConsumerParts {
            stage,
            queue,
            settler,
            limits: limits(self.plan),
            tries: self.tries.clone(),
            state: self.state.stage(S::DEF.name),
            metrics,
            stop: self.stop.clone(),
        })))
    }
}
