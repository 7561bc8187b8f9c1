//! Events with faults of their own after all general faults: one always fails, one is slow and sent many times. The
//! others must not be delayed.

use std::time::Duration;

use fastrand::Rng;
use instant_connect_worker::stages::LINK;
use tokio::time::sleep;

use super::{
    events,
    history::send,
    network::{FailingSession, Outage},
    plan::WorldPlan,
    world::World,
};

/// The number of the event that always fails. The slow event and the others follow it.
const FAILING: usize = 900;
const SLOW: usize = 901;
const OTHERS: usize = 6;
/// Events that are sent before the others.
const FIRST: usize = 910;
const FIRST_OTHERS: usize = 8;
/// In seconds; longer than the others may wait.
const RETRY_AFTER: i64 = 20;
/// Longest remaining time of a general fault and its Retry-After.
const SETTLED: Duration = Duration::from_secs(220);
/// More failures than open the breaker.
const CUT_OFF: usize = 8;
/// Number of copies of the slow event.
const COPIES: usize = 12;

/// Sends the events.
pub(crate) async fn act(world: &World, plan: &WorldPlan, seed: u64) {
    // A remaining outage or a late token may still have opened a breaker. Wait until it closes.
    sleep(SETTLED).await;
    one(world, &mut Rng::with_seed(seed), FAILING - 1, 1);
    sleep(SETTLED).await;
    // A generator of its own, so that the history before stays the same without this part.
    let mut random = Rng::with_seed(!seed);
    let troubles = [(500, None), (403, None), (423, Some(RETRY_AFTER)), (429, Some(RETRY_AFTER))];
    let (status, retry_after) = troubles[random.usize(..troubles.len())];
    let failing = FailingSession { session: format!("s{FAILING}"), status, retry_after };
    world.lock().network().set_failing(Some(failing));
    world.lock().log(format_args!("s{FAILING} always gets status {status}"));
    one(world, &mut random, FAILING, 1);
    sleep(Duration::from_secs(random.u64(1..200))).await;
    // The first Retry-After responses apply to all events.
    if status == 429 {
        for number in FIRST..FIRST + FIRST_OTHERS {
            one(world, &mut random, number, 1);
            sleep(Duration::from_secs(30)).await;
        }
    }
    // A refused token stops the other events until one of them shows that the token is good. A queue that was deleted and
    // declared again delays a publish for minutes, until the publisher opens a new channel.
    if status != 403 && !world.lock().broker().has_deleted() {
        world.lock().checker.fair.extend((SLOW + 1..=SLOW + OTHERS).map(|number| format!("s{number}")));
    }
    let alone = plan.concurrency == 1;
    for number in SLOW + 1..=SLOW + OTHERS {
        if number == SLOW + OTHERS / 2 && !alone {
            world.lock().network().set_slow(&[format!("s{SLOW}")]);
            one(world, &mut random, SLOW, COPIES);
            sleep(Duration::from_secs(1)).await;
        }
        one(world, &mut random, number, 1);
        sleep(Duration::from_millis(random.u64(100..12_000))).await;
    }
}

/// Instant Connect hangs for sessions that end before the API's usual response time. That is not a failure of the
/// API.
pub(crate) async fn cut_off(world: &World, seed: u64) {
    sleep(SETTLED).await;
    // The breaker must be closed again, and no failure may be left in its count.
    one(world, &mut Rng::with_seed(seed), FAILING - 1, 1);
    sleep(SETTLED).await;
    let mut random = Rng::with_seed(!seed);
    world.lock().network().set_outage(&LINK, Some(Outage::Hangs));
    world.lock().log(format_args!("calls of sessions that are nearly over hang"));
    for number in FAILING..FAILING + CUT_OFF {
        let event = events::short(&mut random, number, world.clock().now());
        world.lock().checker.expect(event.clone());
        send(world, &event);
        sleep(Duration::from_millis(random.u64(10..5_000))).await;
    }
    sleep(Duration::from_secs(5)).await;
    world.lock().network().set_outage(&LINK, None);
}

/// A slow call gets a Retry-After while a probe's slow call is in progress, and the probe then succeeds.
pub(crate) async fn limited_late(world: &World, seed: u64) {
    sleep(SETTLED).await;
    one(world, &mut Rng::with_seed(seed), FAILING - 1, 1);
    sleep(SETTLED).await;
    let mut random = Rng::with_seed(!seed);
    let probe = FAILING + OTHERS;
    {
        let mut state = world.lock();
        let (session, retry_after) = (format!("s{FAILING}"), Some(3 * RETRY_AFTER));
        state.network().set_failing(Some(FailingSession { session, status: 429, retry_after }));
        state.network().set_slow(&[FAILING, probe].map(|number| format!("s{number}")));
        state.network().set_outage(&LINK, Some(Outage::Status(503)));
        state.log(format_args!("s{FAILING} and s{probe} are slow"));
    }
    for number in FAILING..probe {
        one(world, &mut random, number, 1);
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_millis(300)).await;
    world.lock().network().set_outage(&LINK, None);
    one(world, &mut random, probe, 1);
    sleep(SETTLED).await;
    world.lock().network().set_failing(None);
}

fn one(world: &World, random: &mut Rng, number: usize, copies: usize) {
    let mut event = events::plain(random, number, Duration::ZERO, world.clock().now());
    event.sent = vec![Duration::ZERO; copies];
    world.lock().checker.expect(event.clone());
    send(world, &event);
}
