//! The settings of the worker under test.

use std::time::Duration;

use instant_connect_worker::{
    breaker::BreakerPolicy,
    broker::{
        consumer::ConsumerLimits,
        topology::{Topology, TopologyConfig},
    },
    contract::{
        people::{AllowedExperts, Channel, NumberPrefixes},
        stage::StageDef,
        start_session::{GuestRules, SessionRules, Vertical},
    },
    instant_connect::response::LinkRules,
    retry::RetryPolicy,
    stages::SendRules,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    broker::SimulatedQueues,
    checker::CheckedRules,
    events::ALLOWED,
    network::BASE_URL,
    per_stage::PREFIX,
    plan::{SendersPlan, WorldPlan},
};

/// Configuration, parsed as from a file.
pub(super) fn config<T: DeserializeOwned>(said: serde_json::Value) -> T {
    serde_json::from_value(said).unwrap_or_else(|error| unreachable!("a constant: {error}"))
}

pub(super) fn topology(plan: &WorldPlan) -> Topology {
    let topology = topology_of(plan.stages(), &plan.delays, plan.creates);
    if plan.takes_receipts() { topology.with_receipts() } else { topology }
}

/// The broker's queues for the worker of `plan`, all declared.
pub(crate) fn queues(plan: &WorldPlan) -> SimulatedQueues {
    let topology = topology(plan);
    let work = plan.stages().iter().map(|stage| topology.queue(stage.queue)).collect();
    SimulatedQueues::new(topology.plan(), work)
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
        experts: AllowedExperts::default(),
        guests: rules.senders.as_ref().filter(|senders| senders.link_refuses).map(|senders| GuestRules {
            numbers: numbers(senders),
            channels: vec![Channel::Sms, Channel::Whatsapp],
        }),
    }
}

pub(crate) fn numbers(senders: &SendersPlan) -> NumberPrefixes {
    config(json!(senders.prefixes()))
}

pub(super) fn send_rules(senders: &SendersPlan) -> SendRules {
    SendRules {
        links: link_rules(),
        numbers: numbers(senders),
        min_remaining: senders.min_remaining,
        on_unknown: senders.on_unknown,
        receipt_wait: senders.receipt_wait,
        sms_fallback: false,
        rate: senders.rate,
        per_address_per_hour: Some(10),
    }
}

pub(super) fn link_rules() -> LinkRules {
    LinkRules {
        allowed_base_urls: vec![BASE_URL.to_owned()],
        long_url_base: "https://instant.webex.com".to_owned(),
    }
}
