//! After all troubles: one event always fails, another one is slow and comes many times, and the others must not notice.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::sleep;

use super::{events, network::Outage, plan::WorldPlan, send, world::World};
use crate::clock;

/// The number of the event that always fails; the slow one and the others follow.
const CURSED: usize = 900;
const SLOW: usize = 901;
const OTHERS: usize = 6;
/// Some that come before.
const FIRST: usize = 910;
const FIRST_OTHERS: usize = 8;
/// Longer than the others may wait, in seconds.
const RETRY_AFTER: i64 = 20;
/// Longest that a trouble goes on, and a Retry-After of its.
const SETTLED: Duration = Duration::from_secs(220);
/// More than it takes for an outage.
const CUT_OFF: usize = 8;
/// How often the slow one comes.
const COPIES: usize = 12;

/// Sends them.
pub(super) async fn act(world: &World, plan: &WorldPlan, seed: u64) {
    // An outage or a new token may still be on its way, and what it opened is to be closed: only then are the others alone.
    sleep(SETTLED).await;
    one(world, &mut Rng::with_seed(seed), CURSED - 1, 1);
    sleep(SETTLED).await;
    // By itself, so that the story before is the same with or without it.
    let mut random = Rng::with_seed(!seed);
    let troubles = [(500, None), (403, None), (423, Some(RETRY_AFTER)), (429, Some(RETRY_AFTER))];
    let (status, retry_after) = troubles[random.usize(..troubles.len())];
    world.lock().servers.cursed = Some((format!("s{CURSED}"), status, retry_after));
    world.lock().log(format_args!("s{CURSED} always meets {status}"));
    one(world, &mut random, CURSED, 1);
    sleep(Duration::from_secs(random.u64(1..200))).await;
    // The first Retry-Afters are for all.
    if status == 429 {
        for number in FIRST..FIRST + FIRST_OTHERS {
            one(world, &mut random, number, 1);
            sleep(Duration::from_secs(30)).await;
        }
    }
    // What only a refused token explains stops the others until one of them shows that the token is good.
    if status != 403 {
        world.lock().checker.fair.extend((SLOW + 1..=SLOW + OTHERS).map(|number| format!("s{number}")));
    }
    let alone = plan.concurrency == 1;
    for number in SLOW + 1..=SLOW + OTHERS {
        if number == SLOW + OTHERS / 2 && !alone {
            world.lock().servers.slow = vec![format!("s{SLOW}")];
            one(world, &mut random, SLOW, COPIES);
            sleep(Duration::from_secs(1)).await;
        }
        one(world, &mut random, number, 1);
        sleep(Duration::from_millis(random.u64(100..12_000))).await;
    }
}

/// Instant Connect hangs for sessions that end before it has had its usual time to answer: that is no failure of its.
pub(super) async fn cut_off(world: &World, seed: u64) {
    sleep(SETTLED).await;
    // What opened the breaker is to be closed, and no failure is left that counts.
    one(world, &mut Rng::with_seed(seed), CURSED - 1, 1);
    sleep(SETTLED).await;
    let mut random = Rng::with_seed(!seed);
    world.lock().servers.outage[0] = Some(Outage::Hangs);
    world.lock().log(format_args!("calls of sessions that are nearly over hang"));
    for number in CURSED..CURSED + CUT_OFF {
        let event = events::short(&mut random, number, clock::now());
        world.lock().checker.expect(event.clone());
        send(world, &event);
        sleep(Duration::from_millis(random.u64(10..5_000))).await;
    }
    sleep(Duration::from_secs(5)).await;
    world.lock().servers.outage[0] = None;
}

/// A slow call is answered with a Retry-After while a probe's slow call is under way, which then works.
pub(super) async fn limited_late(world: &World, seed: u64) {
    sleep(SETTLED).await;
    one(world, &mut Rng::with_seed(seed), CURSED - 1, 1);
    sleep(SETTLED).await;
    let mut random = Rng::with_seed(!seed);
    let probe = CURSED + OTHERS;
    {
        let mut state = world.lock();
        state.servers.cursed = Some((format!("s{CURSED}"), 429, Some(3 * RETRY_AFTER)));
        state.servers.slow = [CURSED, probe].map(|number| format!("s{number}")).to_vec();
        state.servers.outage[0] = Some(Outage::Status(503));
        state.log(format_args!("s{CURSED} and s{probe} take long"));
    }
    for number in CURSED..probe {
        one(world, &mut random, number, 1);
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_millis(300)).await;
    world.lock().servers.outage[0] = None;
    one(world, &mut random, probe, 1);
    sleep(SETTLED).await;
    world.lock().servers.cursed = None;
}

fn one(world: &World, random: &mut Rng, number: usize, copies: usize) {
    let mut event = events::plain(random, number, Duration::ZERO, clock::now());
    event.sent = vec![Duration::ZERO; copies];
    world.lock().checker.expect(event.clone());
    send(world, &event);
}
