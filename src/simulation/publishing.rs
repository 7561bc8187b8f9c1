//! The broker's side of the publisher: routes, stores, confirms, refuses, returns and loses messages.

use std::time::Duration;

use tokio::{sync::mpsc, time::sleep};

use super::{
    broker::{self, GUESTS, SimulatedConnection, Stored},
    world::{Life, WorldState},
};
use crate::broker::publisher::{Publication, PublishError, PublishJob};

/// The time limit for a confirm.
const CONFIRM_LIMIT: Duration = Duration::from_secs(30);

/// The fate of one publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PublishFate {
    Confirmed,
    /// Stored, but the worker never gets the confirm.
    Unconfirmed,
    /// Neither stored nor confirmed.
    Lost,
    Nacked,
}

/// Publishes for one life of the worker, over one connection after another.
pub(super) async fn run(life: Life, mut jobs: mpsc::Receiver<PublishJob>) {
    loop {
        if let Ok(connection) = SimulatedConnection::open(&life).await {
            loop {
                tokio::select! {
                    biased;
                    () = connection.0.gone() => break,
                    job = jobs.recv() => match job {
                        None => return,
                        // The caller has given up; the broker has the delivery again.
                        Some(job) if job.reply.is_closed() => {}
                        Some(job) => drop(tokio::spawn(publish(connection.clone(), job))),
                    },
                }
            }
        }
        sleep(Duration::from_millis(fastrand::u64(100..1000))).await;
    }
}

async fn publish(connection: SimulatedConnection, PublishJob { publication, reply, .. }: PublishJob) {
    let life = &connection.0.life;
    {
        let mut state = life.world.lock();
        let rule = state.checker.published(&publication);
        state.must(rule);
    }
    life.pass("before the broker has it").await;
    let fate = fate(life);
    let cut_before = connection.0.is_cut();
    let stored = if cut_before || matches!(fate, PublishFate::Nacked | PublishFate::Lost) {
        Ok(())
    } else {
        store(life, &publication)
    };
    life.pass("before its confirm").await;
    let result = match fate {
        _ if connection.0.is_cut() => {
            connection.0.gone().await;
            Err(PublishError::Unknown)
        }
        PublishFate::Lost | PublishFate::Unconfirmed => {
            tokio::select! {
                biased;
                () = connection.0.gone() => {}
                () = sleep(CONFIRM_LIMIT) => {}
            }
            Err(PublishError::Unknown)
        }
        PublishFate::Nacked => Err(PublishError::Nacked),
        PublishFate::Confirmed => stored,
    };
    // A dead worker does not get the result.
    life.point("at its confirm").await;
    let mut state = life.world.lock();
    let name = state.checker.name(&publication.body).to_owned();
    state.log(format_args!("publish: {name} {result:?}"));
    // If the caller has given up, the worker does not get the result.
    let learnt = if reply.send(result).is_ok() { result } else { Err(PublishError::Unknown) };
    state.checker.answered(&publication, learnt);
}

fn fate(life: &Life) -> PublishFate {
    let mut state = life.world.lock();
    let shares = [
        (PublishFate::Nacked, state.plan.nacked),
        (PublishFate::Unconfirmed, state.plan.unconfirmed),
        (PublishFate::Lost, state.plan.lost),
    ];
    shares
        .into_iter()
        .find(|(_, share)| state.chance(*share))
        .map_or(PublishFate::Confirmed, |(fate, _)| fate)
}

fn store(life: &Life, publication: &Publication) -> Result<(), PublishError> {
    let mut state = life.world.lock();
    let queue = broker::route(&state.broker, &publication.exchange, &publication.routing_key);
    let Some(queue) = queue else {
        state.log(format_args!("{} has no binding", publication.routing_key));
        state.checker.unroutable(publication);
        return Err(PublishError::Unroutable);
    };
    let name = state.checker.name(&publication.body).to_owned();
    state.log(format_args!("{queue}: stored {name}"));
    let delay = state.broker.delay(&queue);
    let rule = {
        let WorldState { checker, servers, .. } = &mut *state;
        checker.stored(&servers.links, &queue, delay, publication)
    };
    state.must(rule);
    if queue != GUESTS {
        let message = Stored::new(publication.properties.clone(), publication.body.clone());
        broker::store(&life.world, &mut state, &queue, message);
    }
    Ok(())
}
