//! A third stage runs without a change to the runtime: topology, metrics, delays, retries, publishing and settling follow
//! from its entry in the table. Besides its own file, a real one needs a line in `stages/mod.rs` (the table), in
//! `worker/assembly.rs` (how it is built) and in `config/components.rs` (when it runs).

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use instant_connect_worker::{
    contract::{
        identity::Identity,
        message::Message,
        outgoing::{Outgoing, Route},
        private::Private,
        stage::{LatencyDef, MessageKind, QueueDef, StageDef, UpstreamDef},
        time::WireTime,
    },
    outcome::{Cause, Failure, Outcome},
    stages::{AcceptedJob, HOST, JobContext, LINK, Read, Stage},
};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::SingleConsumer;
use crate::worker;

/// The table with the third stage.
static TABLE: &[&StageDef] = &[&LINK, &HOST, &TOY];

static TOY: StageDef = StageDef {
    name: "toy",
    queue: &QueueDef {
        name: "wishes",
        bindings: &[("wishes", "wish.made")],
        messages: MessageKind::StartEvent,
    },
    feeds: &[&QueueDef { name: "boxes", bindings: &[("toys", "box.red")], messages: MessageKind::GuestLink }],
    routes: &[RED_BOX],
    upstream: UpstreamDef { label: "toy_shop", title: "Toy shop", key: "toy-shop" },
    latency: LatencyDef { name: "wish_to_toy_seconds", help: "Time from the wish to the toy." },
};

const RED_BOX: Route = Route { exchange: "toys", routing_key: "box.red", role: "child", channel: "box" };

/// Gives out a toy at the second attempt.
struct ToyStage {
    attempts: AtomicU32,
    deadline: WireTime,
}

impl Stage for ToyStage {
    type Job = Vec<u8>;

    const DEF: &'static StageDef = &TOY;

    fn bytes_max(&self, message: &Message) -> usize {
        message.body.len()
    }

    fn read(&self, message: &Message) -> Read<Vec<u8>> {
        let job = message.body.clone();
        Read {
            identity: Identity::without_body(message),
            effect: "toy:one".to_owned(),
            bytes: message.body.len(),
            job: Ok(AcceptedJob { job, deadline: self.deadline, digest: [0; 32] }),
        }
    }

    async fn act(&self, body: Vec<u8>, context: &mut JobContext) -> Outcome {
        if self.attempts.fetch_add(1, Ordering::Relaxed) == 0 {
            let reason = "the toy shop is closed".to_owned();
            return Outcome::TryAgain(Failure { cause: Cause::Unavailable, reason, retry_after: None });
        }
        let toy = Outgoing {
            route: RED_BOX,
            kind: "toy.v1",
            message_id: Uuid::from_u128(1),
            correlation_id: Private::new("wish".to_owned()),
            body: body.into(),
            deadline: context.deadline,
        };
        Outcome::Done(vec![toy].into())
    }
}

#[tokio::test(start_paused = true)]
async fn third_stage_runs_from_its_entry_in_the_table() {
    let begin: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    let stage = ToyStage {
        attempts: AtomicU32::new(0),
        deadline: WireTime::floor(begin + SignedDuration::from_hours(1)),
    };
    let consumer = SingleConsumer::of_table(TABLE, begin, |_| {}, |limits| limits, |_| stage).await;
    consumer.store();
    assert!(consumer.settles_all().await);
    let text = consumer.all_metrics.render().unwrap();
    for line in [
        r#"events_total{outcome="done",stage="toy"} 1"#,
        r#"events_total{outcome="try-again",stage="toy"} 1"#,
        r#"events_total{outcome="done",stage="link"} 0"#,
        r#"links_total{channel="box",role="child"} 1"#,
        "wish_to_toy_seconds_count 1",
        r#"breaker_open{upstream="toy_shop"} 0"#,
        r#"connected{connection="toy"} 0"#,
        r#"ledger_claims_total{result="hit",stage="toy"} 0"#,
    ] {
        assert!(text.lines().any(|found| found == format!("instant_connect_{line}")), "{line}:\n{text}");
    }
}

#[test]
fn topology_has_the_queues_of_the_third_stage() {
    let plan = worker::topology_of(TABLE, &[Duration::from_secs(1)], true).plan();
    let queues: Vec<_> = plan.queues.iter().map(|queue| queue.name.as_str()).collect();
    for name in ["wishes", "wishes.dead", "wishes.replay", "wishes.hold.1000", "boxes", "boxes.dead"] {
        assert!(queues.contains(&format!("sim.{name}").as_str()), "{name}: {queues:?}");
    }
    assert!(!queues.contains(&"sim.boxes.hold.1000"), "this program does not consume the boxes");
    let bound = |exchange: &str, key: &str, queue: &str| {
        plan.bindings.iter().any(|binding| {
            binding.exchange == exchange && binding.routing_key == key && binding.queue == queue
        })
    };
    assert!(bound("sim.wishes", "wish.made", "sim.wishes") && bound("sim.toys", "box.red", "sim.boxes"));
    assert!(plan.exchanges.iter().any(|exchange| exchange.name == "sim.toys"));
}
