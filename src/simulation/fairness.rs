//! After all troubles: one event always fails, another one is slow and comes many times, and the others must not notice.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::sleep;

use super::{events, plan::Plan, send, world::World};
use crate::clock;

/// The number of the event that always fails; the slow one and the others follow.
const CURSED: usize = 900;
const SLOW: usize = 901;
const OTHERS: usize = 6;
/// Longest that a trouble goes on, and a Retry-After of its.
const SETTLED: Duration = Duration::from_secs(220);
/// How often the slow one comes.
const COPIES: usize = 12;

/// Sends them.
pub(super) async fn act(world: &World, plan: &Plan, seed: u64) {
    // An outage or a new token may still be on its way, and what it opened is to be closed: only then are the others alone.
    sleep(SETTLED).await;
    one(world, &mut Rng::with_seed(seed), CURSED - 1, 1);
    sleep(SETTLED).await;
    // By itself, so that the story before is the same with or without it.
    let mut random = Rng::with_seed(!seed);
    let status = if random.bool() { 500 } else { 403 };
    world.lock().servers.cursed = Some((format!("s{CURSED}"), status));
    world.lock().log(format_args!("s{CURSED} always meets {status}"));
    one(world, &mut random, CURSED, 1);
    sleep(Duration::from_secs(random.u64(1..200))).await;
    // What only a refused token explains stops the others until one of them shows that the token is good.
    if status == 500 {
        world.lock().checker.fair.extend((SLOW + 1..=SLOW + OTHERS).map(|number| format!("s{number}")));
    }
    let alone = plan.concurrency == 1;
    for number in SLOW + 1..=SLOW + OTHERS {
        if number == SLOW + OTHERS / 2 && !alone {
            world.lock().servers.slow = Some(format!("s{SLOW}"));
            one(world, &mut random, SLOW, COPIES);
            sleep(Duration::from_secs(1)).await;
        }
        one(world, &mut random, number, 1);
        sleep(Duration::from_millis(random.u64(100..12_000))).await;
    }
}

fn one(world: &World, random: &mut Rng, number: usize, copies: usize) {
    let mut event = events::plain(random, number, Duration::ZERO, clock::now());
    event.sent = vec![Duration::ZERO; copies];
    world.lock().checker.expect(event.clone());
    send(world, &event);
}
