//! The settings of the worker under test.

use std::time::Duration;

use instant_connect_worker::{
    breaker::BreakerPolicy,
    broker::{
        consumer::ConsumerLimits,
        topology::{Topology, TopologyConfig},
    },
    contract::{
        stage::StageDef,
        start_session::{SessionRules, Vertical},
    },
    instant_connect::response::LinkRules,
    retry::RetryPolicy,
    stages,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    broker::SimulatedQueues, checker::CheckedRules, events::ALLOWED, network::BASE_URL, per_stage::PREFIX,
    plan::WorldPlan,
};

/// Configuration, parsed as from a file.
fn config<T: DeserializeOwned>(said: serde_json::Value) -> T {
    serde_json::from_value(said).unwrap_or_else(|error| unreachable!("a constant: {error}"))
}

pub(super) fn topology(plan: &WorldPlan) -> Topology {
    topology_of(stages::GuestsDelivery::Amqp.stages(), &plan.delays, plan.creates)
}

pub(crate) fn topology_of(table: &[&'static StageDef], delays: &[Duration], creates: bool) -> Topology {
    let declare = if creates { "create" } else { "off" };
    let said = json!({"prefix": PREFIX, "declare": declare, "queue_length_max": 1_000_000});
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
        breaker: BreakerPolicy {
            failures: 5,
            probe_initial: Duration::from_secs(1),
            probe_max: Duration::from_secs(30),
        },
    }
}

pub(super) fn session_rules(rules: &CheckedRules) -> SessionRules {
    SessionRules {
        subject_prefix: String::new(),
        vertical: Vertical::Hc,
        host_login: true,
        link_lifetime: jiff::SignedDuration::try_from(rules.lifetime).unwrap_or(jiff::SignedDuration::MAX),
        devices: config(json!([ALLOWED])),
        guests: None,
    }
}

pub(super) fn link_rules() -> LinkRules {
    LinkRules {
        allowed_base_urls: vec![BASE_URL.to_owned()],
        long_url_base: "https://instant.webex.com".to_owned(),
    }
}
