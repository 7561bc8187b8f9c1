//! After a message that can't be read, its neighbours come one at a time, and then all as before.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::sleep;

use super::alone::Alone;
use crate::{
    broker::consumer::{ConsumeMode, ConsumerLimits},
    clock,
    contract::{
        message::Message,
        start_session::{self, Identity},
        time::WireTime,
    },
    outcome::{Class, Death, Outcome},
    stages::Stage,
};

/// Prefetch and concurrency.
const AT_ONCE: u16 = 3;

/// Takes a second for each message.
struct Slow {
    now: AtomicUsize,
    /// Each message is another event.
    names: AtomicUsize,
    /// How many others were worked on, at the begin of each.
    others: Arc<Mutex<Vec<usize>>>,
}

impl Stage for Slow {
    const NAME: &'static str = "link";

    fn identify(&self, message: &Message) -> Identity {
        start_session::identify(message)
    }

    fn effect(&self, _: &Message, _: &Identity) -> String {
        self.names.fetch_add(1, Ordering::Relaxed).to_string()
    }

    fn deadline(&self, _: &Message) -> Result<WireTime, Death> {
        Ok(WireTime::floor(Timestamp::MAX))
    }

    fn bytes(&self, _: &Message) -> usize {
        0
    }

    async fn handle(&self, _: &Message) -> Outcome {
        let others = self.now.fetch_add(1, Ordering::Relaxed);
        self.others.lock().unwrap_or_else(PoisonError::into_inner).push(others);
        sleep(Duration::from_secs(1)).await;
        self.now.fetch_sub(1, Ordering::Relaxed);
        Outcome::Dead(Death::new(Class::Invalid, "it is no event"))
    }
}

#[tokio::test(start_paused = true)]
async fn as_many_as_were_held_come_one_at_a_time_and_then_all_as_before() {
    let begin = "2026-11-21T12:00:00Z".parse().unwrap();
    let _clock = clock::simulated::begin(begin);
    let others = Arc::<Mutex<Vec<usize>>>::default();
    let stage = Slow { now: AtomicUsize::new(0), names: AtomicUsize::new(0), others: Arc::clone(&others) };
    let at_once = usize::from(AT_ONCE);
    let limits = |limits| ConsumerLimits { prefetch: AT_ONCE, concurrency: at_once, ..limits };
    let alone = Alone::new(begin, |_| {}, limits, |_| stage).await;
    for _ in 0..4 * at_once {
        alone.store();
    }
    alone.consumer.set_next_mode(ConsumeMode::OneAtATime);
    assert!(alone.settles_all().await);
    let others = others.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (singly, all) = others.split_at(at_once);
    assert!(singly.iter().all(|others| *others == 0), "{others:?}");
    assert_eq!(all.iter().max(), Some(&(at_once - 1)), "{others:?}");
}
