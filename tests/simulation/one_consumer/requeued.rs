//! A message that always fails is given up in the end, even if the broker does not count nacks.

use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use instant_connect_worker::{
    broker::consumer::ConsumerLimits,
    contract::{identity::Identity, message::Message, stage::StageDef, time::WireTime},
    outcome::{Class, Death, Outcome},
    stages::{AcceptedJob, JobContext, LINK, Read, Stage},
};
use jiff::{SignedDuration, Timestamp};

use super::SingleConsumer;
use crate::{plan::WorldPlan, world::World};

/// A fault that passes is over after this many deliveries.
const PASSES_AFTER: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The stage's API never responds.
    Hangs,
    /// The broker refuses every publish.
    NothingIsPublished,
    /// The worker panics outside the stage.
    Defect,
}

struct Troubled {
    trouble: Trouble,
    world: World,
    begin: Timestamp,
    /// The previous deliveries of the message, at each delivery.
    counts: Arc<Mutex<Vec<u32>>>,
}

impl Stage for Troubled {
    type Job = ();

    const DEF: &'static StageDef = &LINK;

    fn bytes_max(&self, message: &Message) -> usize {
        let count = message.deliveries();
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).push(count);
        if count >= PASSES_AFTER {
            self.world.lock().plan.nacked = 0.0;
        } else {
            assert!(self.trouble != Trouble::Defect, "a defect outside the stage");
        }
        0
    }

    fn read(&self, message: &Message) -> Read<()> {
        let over = self.begin + SignedDuration::from_mins(10);
        let job = match self.trouble {
            Trouble::Hangs if self.world.clock().now() < over => {
                Ok(AcceptedJob { job: (), deadline: WireTime::floor(over), digest: [0; 32] })
            }
            Trouble::Hangs => Err(Death::new(Class::Expired, "the session has ended")),
            _ => Err(Death::new(Class::Invalid, "not an event")),
        };
        Read { identity: Identity::without_body(message), effect: "link:one".to_owned(), bytes: 0, job }
    }

    async fn act(&self, (): (), _: &mut JobContext) -> Outcome {
        pending().await
    }
}

/// Returns the previous deliveries of the message at each delivery, and true if the breaker is open at the end.
async fn delivered(trouble: Trouble) -> (Vec<u32>, bool) {
    let begin = "2026-11-21T12:00:00Z".parse().unwrap();
    let counts = Arc::default();
    let stage = |world| Troubled { trouble, world, begin, counts: Arc::clone(&counts) };
    let plan = |plan: &mut WorldPlan| {
        if trouble == Trouble::NothingIsPublished {
            plan.nacked = 1.0;
        }
    };
    let limits = |limits| ConsumerLimits { delivery_timeout: Duration::from_secs(1), ..limits };
    let consumer = SingleConsumer::new(begin, plan, limits, stage).await;
    consumer.world.lock().broker().set_counts_nacks(false);
    consumer.store();
    let in_time = consumer.settles_all().await;
    let counts = counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(in_time, "{trouble:?}: not settled after {} deliveries", counts.len());
    (counts, consumer.state.breaker.is_open())
}

#[tokio::test(start_paused = true)]
async fn always_failing_message_is_counted_until_it_is_settled() {
    for trouble in [Trouble::NothingIsPublished, Trouble::Defect] {
        assert_eq!(delivered(trouble).await, (vec![0, 1, 2, 3], false), "{trouble:?}");
    }
    // The message dies when its session ends. Until then, retries are delayed and the breaker is open: no other
    // message is processed.
    let (counts, open) = delivered(Trouble::Hangs).await;
    assert!((10..600).contains(&counts.len()) && open, "{counts:?}");
}
