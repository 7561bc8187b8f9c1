//! After an unreadable message, its batch is consumed one at a time; then consumption continues normally.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use instant_connect_worker::{
    broker::consumer::{ConsumeMode, ConsumerLimits},
    contract::{identity::Identity, message::Message, stage::StageDef, time::WireTime},
    outcome::{Class, Death, Outcome},
    stages::{AcceptedJob, JobContext, LINK, Read, Stage},
};
use jiff::Timestamp;
use tokio::time::sleep;

use super::SingleConsumer;

/// Prefetch and concurrency.
const AT_ONCE: u16 = 3;

/// Takes one second per message.
struct Slow {
    now: AtomicUsize,
    /// Makes each message a different event.
    names: AtomicUsize,
    /// Number of other messages in progress at the start of each.
    others: Arc<Mutex<Vec<usize>>>,
}

impl Stage for Slow {
    type Job = ();

    const DEF: &'static StageDef = &LINK;

    fn bytes_max(&self, _: &Message) -> usize {
        0
    }

    fn read(&self, message: &Message) -> Read<()> {
        Read {
            identity: Identity::without_body(message),
            effect: self.names.fetch_add(1, Ordering::Relaxed).to_string(),
            bytes: 0,
            job: Ok(AcceptedJob { job: (), deadline: WireTime::floor(Timestamp::MAX), digest: [0; 32] }),
        }
    }

    async fn act(&self, (): (), _: &mut JobContext) -> Outcome {
        let others = self.now.fetch_add(1, Ordering::Relaxed);
        self.others.lock().unwrap_or_else(PoisonError::into_inner).push(others);
        sleep(Duration::from_secs(1)).await;
        self.now.fetch_sub(1, Ordering::Relaxed);
        Outcome::Dead(Death::new(Class::Invalid, "not an event"))
    }
}

#[tokio::test(start_paused = true)]
async fn one_prefetch_is_consumed_one_at_a_time_then_concurrently() {
    let begin = "2026-11-21T12:00:00Z".parse().unwrap();
    let others = Arc::<Mutex<Vec<usize>>>::default();
    let stage = Slow { now: AtomicUsize::new(0), names: AtomicUsize::new(0), others: Arc::clone(&others) };
    let at_once = usize::from(AT_ONCE);
    let limits = |limits| ConsumerLimits { prefetch: AT_ONCE, concurrency: at_once, ..limits };
    let consumer = SingleConsumer::new(begin, |_| {}, limits, |_| stage).await;
    for _ in 0..4 * at_once {
        consumer.store();
    }
    consumer.consumer.set_next_mode(ConsumeMode::OneAtATime);
    assert!(consumer.settles_all().await);
    let others = others.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (isolated, all) = others.split_at(at_once);
    assert!(isolated.iter().all(|others| *others == 0), "{others:?}");
    assert_eq!(all.iter().max(), Some(&(at_once - 1)), "{others:?}");
}
