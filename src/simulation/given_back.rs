//! What fails each time comes to an end, also where the broker counts no nack.

use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use lapin::BasicProperties;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    CALM_MAX,
    broker::{self, Connection, SESSIONS, Stored},
    checker::{Checker, Rules},
    plan::Plan,
    publishing, worker,
    world::World,
};
use crate::{
    broker::{
        consumer::{Consumer, Limits},
        publisher::Publisher,
        settle::Settler,
    },
    clock,
    contract::{
        message::Message,
        start_session::{self, Identity},
    },
    outcome::{Class, Death, Outcome},
    stages::Stage,
    telemetry::{
        metrics::{Metrics, labels},
        traces::Tracer,
    },
};

/// After as many deliveries a message is put aside.
const DELIVERIES_MAX: u32 = 5;
/// After as many a trouble is over that may pass.
const PASSES_AFTER: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The stage's API never answers.
    Hangs,
    /// The broker takes nothing.
    NothingIsPublished,
    /// The worker panics outside the stage.
    Defect,
}

struct Troubled {
    trouble: Trouble,
    world: World,
    /// How often the message was delivered before, at each delivery.
    counts: Arc<Mutex<Vec<u32>>>,
}

impl Stage for Troubled {
    const NAME: &'static str = "link";

    fn identify(&self, message: &Message) -> Identity {
        let count = message.deliveries();
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).push(count);
        if count >= PASSES_AFTER {
            self.world.lock().plan.nacked = 0.0;
        } else {
            assert!(self.trouble != Trouble::Defect, "a defect outside the stage");
        }
        start_session::identify(message)
    }

    async fn handle(&self, _: &Message) -> Outcome {
        match self.trouble {
            Trouble::Hangs => pending().await,
            _ => Outcome::Dead(Death::new(Class::Invalid, "it is no event")),
        }
    }
}

/// How often the message was delivered before, at each delivery; and whether the breaker is open at the end.
async fn delivered(trouble: Trouble) -> (Vec<u32>, bool) {
    let begin = "2026-11-21T12:00:00Z".parse().unwrap();
    let _clock = clock::simulated::begin(begin);
    let mut random = Rng::with_seed(1);
    let mut plan = Plan::new(&mut random);
    plan.calm();
    if trouble == Trouble::NothingIsPublished {
        plan.nacked = 1.0;
    }
    let rules = Rules {
        begin,
        attempts: 1,
        total: CALM_MAX,
        lifetime: CALM_MAX,
        deliveries_max: DELIVERIES_MAX,
        first_delay: Duration::ZERO,
    };
    let limits = Limits {
        deliveries_max: DELIVERIES_MAX,
        hold_max: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        ..worker::limits(&plan)
    };
    let checker = Checker::new(Vec::new(), rules.clone());
    let world = World::new(plan.clone(), random, checker, String::new(), false);
    world.lock().broker.counts_nacks = false;
    let life = world.begin_life();
    let (publisher, jobs) = Publisher::simulated();
    let publishing = tokio::spawn(publishing::run(life.clone(), jobs));
    let metrics = Metrics::new(&[]).unwrap().stage(labels::Stage::Link);
    let settler = Settler::new(
        publisher,
        Tracer::default(),
        &worker::topology(&plan),
        SESSIONS.to_owned(),
        limits.timeout,
        worker::policy(&rules),
        metrics.clone(),
    );
    let counts = Arc::default();
    let stage = Troubled { trouble, world: world.clone(), counts: Arc::clone(&counts) };
    let (_stop, stopped) = watch::channel(false);
    let consumer =
        Arc::new(Consumer::new(stage, SESSIONS.to_owned(), settler, limits, metrics.clone(), stopped));
    let message = Stored::new(BasicProperties::default(), Arc::from(&b"{}"[..]));
    broker::store(&world, &mut world.lock(), SESSIONS, message);
    let connection = Connection::open(&life).await.unwrap();
    let settled = async {
        while !world.lock().broker.idle() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    let ended = timeout(CALM_MAX, async {
        tokio::select! {
            ended = consumer.consume((&connection).into()) => panic!("{ended:?}"),
            () = settled => {}
        }
    });
    let in_time = ended.await.is_ok();
    publishing.abort();
    let counts = counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(in_time, "{trouble:?} has no end after {} deliveries", counts.len());
    (counts, metrics.breaker.is_open())
}

#[tokio::test(start_paused = true)]
async fn what_fails_each_time_is_counted_until_it_ends() {
    for trouble in [Trouble::NothingIsPublished, Trouble::Defect] {
        assert_eq!(delivered(trouble).await, (vec![0, 1, 2, 3], false), "{trouble:?}");
    }
    // Then it is poison; by then the breaker takes it for an outage.
    assert_eq!(delivered(Trouble::Hangs).await, (vec![0, 1, 2, 3, 4, 5], true));
}
