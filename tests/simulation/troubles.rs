//! Faults that come and go: crashes, restarts, connections, outages, rate limits, tokens, bindings, the ledger's
//! disk.

use std::{future::Future, path::Path, time::Duration};

use jiff::SignedDuration;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    broker,
    checker::CheckedRules,
    network::Outage,
    plan::WorldPlan,
    worker::Worker,
    world::{World, WorldState},
};

/// Longest time after which a worker has reconnected.
const RECONNECTED_AFTER: Duration = Duration::from_secs(15);

/// A planned end of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Die,
    ShutDown,
}

/// Runs the worker through all faults. When this returns, the worker runs and no fault is left.
pub(crate) async fn all(world: &World, plan: &WorldPlan, rules: &CheckedRules, token: &Path) {
    let mut orders = Vec::new();
    {
        let mut state = world.lock();
        for (order, count) in [(Order::Die, plan.crashes), (Order::ShutDown, plan.shutdowns)] {
            for _ in 0..count {
                orders.push((moment(&mut state), order));
            }
        }
        orders.sort_by_key(|(at, _)| *at);
    }
    for _ in 0..plan.disconnects {
        later(world, |world| async move { broker::cut_one(&world) });
    }
    for _ in 0..plan.broker_restarts {
        later(world, broker_restart);
    }
    for _ in 0..plan.outages {
        later(world, |world| outage(world, false));
    }
    for _ in 0..plan.rate_limits {
        later(world, |world| outage(world, true));
    }
    for number in 1..=plan.token_rotations {
        let token = token.to_owned();
        later(world, move |world| async move { rotate(&world, &token, number).await });
    }
    for _ in 0..plan.unbound {
        later(world, unbound);
    }
    for _ in 0..plan.alarms {
        later(world, alarm);
    }
    for _ in 0..plan.deletions {
        later(world, deletion);
    }
    for _ in 0..plan.stalls {
        later(world, |world| async move { world.lock().broker().stall() });
    }
    for _ in 0..plan.ledger_outages {
        later(world, ledger_outage);
    }
    let runs = tokio::spawn(live(world.clone(), plan.clone(), rules.clone(), token.to_owned(), orders));
    sleep(plan.troubled).await;
    let mut state = world.lock();
    state.log(format_args!("faults end"));
    state.plan.calm();
    drop(state);
    // The worker's task continues.
    drop(runs);
}

/// A random moment during the time of faults.
fn moment(state: &mut WorldState) -> Instant {
    let share = state.random.f64();
    Instant::now() + state.plan.troubled.mul_f64(share)
}

/// Starts `trouble` at a random moment.
fn later<F>(world: &World, trouble: impl FnOnce(World) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send,
{
    let at = moment(&mut world.lock());
    let world = world.clone();
    tokio::spawn(async move {
        sleep_until(at).await;
        trouble(world).await;
    });
}

/// The duration of a fault.
fn span(state: &mut WorldState, seconds: u64) -> Duration {
    Duration::from_millis(state.random.u64(100..seconds * 1000))
}

/// Runs one life of the worker after another.
async fn live(
    world: World,
    plan: WorldPlan,
    rules: CheckedRules,
    token: std::path::PathBuf,
    mut orders: Vec<(Instant, Order)>,
) {
    loop {
        let mut worker = Worker::start(world.begin_life(), &plan, &rules, &token);
        loop {
            let next = orders.first().copied();
            let due = async {
                match next {
                    Some((at, order)) => {
                        sleep_until(at).await;
                        order
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = worker.life.over() => break,
                order = due => {
                    orders.remove(0);
                    match order {
                        Order::Die => worker.life.end("killed"),
                        Order::ShutDown => {
                            world.lock().log(format_args!("shutdown requested"));
                            worker.shut_down().await;
                        }
                    }
                }
            }
        }
        drop(worker);
        let down = span(&mut world.lock(), 10);
        sleep(down).await;
    }
}

async fn broker_restart(world: World) {
    {
        let mut state = world.lock();
        state.broker().set_up(false);
        state.checker.disturbances += 1;
    }
    broker::cut_all(&world, "the broker stops");
    let down = span(&mut world.lock(), 60);
    sleep(down).await;
    let before = {
        let mut state = world.lock();
        state.log(format_args!("the broker is up again"));
        state.broker().set_up(true);
        (state.life(), state.checker.disturbances)
    };
    sleep(RECONNECTED_AFTER).await;
    let mut state = world.lock();
    let undisturbed = before == (state.life(), state.checker.disturbances);
    if undisturbed && before.0.is_some() && !state.checker.draining {
        let connections = state.broker().connections();
        let rule = if connections.len() == state.plan.stages().len() + 1 {
            Ok(())
        } else {
            Err(format!(
                "{RECONNECTED_AFTER:?} after the broker is back, the worker has only {connections:?}"
            ))
        };
        state.must(rule);
    }
}

async fn outage(world: World, rate_limit: bool) {
    let (which, lasts) = {
        let mut state = world.lock();
        let lasts = span(&mut state, 120);
        let stages = state.plan.stages();
        let which = state.random.usize(..stages.len());
        let until = state.now() + SignedDuration::try_from(lasts).unwrap_or_default();
        let outage = if rate_limit { Outage::Limited(until) } else { Outage::new(&mut state.random) };
        state.log(format_args!("API {which} is out: {outage:?}"));
        state.network().set_outage(stages[which], Some(outage));
        (which, lasts)
    };
    sleep(lasts).await;
    let mut state = world.lock();
    state.log(format_args!("API {which} recovered"));
    let of = state.plan.stages()[which];
    state.network().set_outage(of, None);
}

/// Changes the token at the APIs first, and in the file some time later.
async fn rotate(world: &World, file: &Path, number: u32) {
    let token = format!("token-{number}");
    let late = {
        let mut state = world.lock();
        state.log(format_args!("the APIs now expect {token}"));
        state.network().set_token(&token);
        span(&mut state, 60)
    };
    sleep(late).await;
    let written = std::fs::write(file, world.lock().network().token());
    let mut state = world.lock();
    state.log(format_args!("the token file contains the new token"));
    state.must(written.map_err(|error| error.to_string()));
}

async fn unbound(world: World) {
    let lasts = {
        let mut state = world.lock();
        let routes: Vec<_> = state.plan.stages().iter().flat_map(|stage| stage.routes).collect();
        let key = routes[state.random.usize(..routes.len())].routing_key;
        state.broker().unbind(key);
        (span(&mut state, 30), !state.plan.creates)
    };
    restore_after(&world, lasts).await;
}

/// Deletes a queue. If the worker declares what is missing, it notices that.
async fn deletion(world: World) {
    let lasts = {
        let mut state = world.lock();
        if state.broker().delete_queue() {
            (span(&mut state, 5), true)
        } else {
            (span(&mut state, 30), !state.plan.creates)
        }
    };
    restore_after(&world, lasts).await;
}

/// Lets an operator declare what is missing after some time, unless the worker does that.
async fn restore_after(world: &World, (lasts, operator): (Duration, bool)) {
    if operator {
        sleep(lasts).await;
        world.lock().broker().restore();
    }
}

/// A memory or disk alarm.
async fn alarm(world: World) {
    let lasts = {
        let mut state = world.lock();
        state.broker().block(true);
        span(&mut state, 90)
    };
    sleep(lasts).await;
    world.lock().broker().block(false);
}

async fn ledger_outage(world: World) {
    let lasts = {
        let mut state = world.lock();
        state.disk().set_out(true);
        span(&mut state, 60)
    };
    sleep(lasts).await;
    let mut state = world.lock();
    state.disk().set_out(false);
}
