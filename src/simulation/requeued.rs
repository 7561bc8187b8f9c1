//! What fails each time comes to an end, also where the broker counts no nack.

use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{alone::Alone, plan::WorldPlan, world::World};
use crate::{
    broker::consumer::ConsumerLimits,
    clock,
    contract::{
        message::Message,
        start_session::{self, Identity},
        time::WireTime,
    },
    outcome::{Class, Death, Outcome},
    stages::Stage,
};

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
    begin: Timestamp,
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

    fn effect(&self, _: &Message, _: &Identity) -> String {
        "link:one".to_owned()
    }

    fn deadline(&self, _: &Message) -> Result<WireTime, Death> {
        let over = self.begin + SignedDuration::from_mins(10);
        let is_over = || Death::new(Class::Expired, "the session is over");
        if clock::now() < over { Ok(WireTime::floor(over)) } else { Err(is_over()) }
    }

    fn bytes(&self, _: &Message) -> usize {
        0
    }

    async fn handle(&self, message: &Message) -> Outcome {
        match (self.trouble, self.deadline(message)) {
            (Trouble::Hangs, Ok(_)) => pending().await,
            (Trouble::Hangs, Err(death)) => Outcome::Dead(death),
            _ => Outcome::Dead(Death::new(Class::Invalid, "it is no event")),
        }
    }
}

/// How often the message was delivered before, at each delivery; and whether the breaker is open at the end.
async fn delivered(trouble: Trouble) -> (Vec<u32>, bool) {
    let begin = "2026-11-21T12:00:00Z".parse().unwrap();
    let _clock = clock::simulated::begin(begin);
    let counts = Arc::default();
    let stage = |world| Troubled { trouble, world, begin, counts: Arc::clone(&counts) };
    let plan = |plan: &mut WorldPlan| {
        if trouble == Trouble::NothingIsPublished {
            plan.nacked = 1.0;
        }
    };
    let limits = |limits| ConsumerLimits { delivery_timeout: Duration::from_secs(1), ..limits };
    let alone = Alone::new(begin, plan, limits, stage).await;
    alone.world.lock().broker.counts_nacks = false;
    alone.store();
    let in_time = alone.settles_all().await;
    let counts = counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(in_time, "{trouble:?} has no end after {} deliveries", counts.len());
    (counts, alone.metrics.breaker.is_open())
}

#[tokio::test(start_paused = true)]
async fn what_fails_each_time_is_counted_until_it_ends() {
    for trouble in [Trouble::NothingIsPublished, Trouble::Defect] {
        assert_eq!(delivered(trouble).await, (vec![0, 1, 2, 3], false), "{trouble:?}");
    }
    // It ends with its session. Until then it waits between its tries, and it is shown as an outage: nothing else is served.
    let (counts, open) = delivered(Trouble::Hangs).await;
    assert!((10..600).contains(&counts.len()) && open, "{counts:?}");
}
