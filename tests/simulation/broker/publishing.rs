//! The broker's side of publishing: routes, stores, confirms, refuses, returns and loses messages.

use instant_connect_worker::broker::{port::Confirmation, publisher::Publication};
use tokio::sync::oneshot;

use super::{GUESTS, Stored, channel::SimulatedChannel};
use crate::world::{Life, Part};

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

/// Handles a message that was written to `channel`.
pub(super) async fn publish(
    channel: SimulatedChannel,
    publication: Publication,
    confirm: oneshot::Sender<Confirmation>,
) {
    let life = channel.wire.life.clone();
    life.pass("before the broker has it").await;
    let mut fate = fate(&life);
    if channel.wire.is_cut() || channel.is_closed() {
        return channel.leave(confirm);
    }
    if matches!(fate, PublishFate::Confirmed | PublishFate::Unconfirmed) {
        match route(&life, &publication) {
            None => return channel.give_back(&publication, confirm),
            Some(queue) if channel.is_stale_for(&life.world.lock().broker(), &queue) => {
                fate = PublishFate::Unconfirmed;
            }
            Some(_) => {}
        }
    }
    life.pass("before its confirm").await;
    match fate {
        PublishFate::Lost | PublishFate::Unconfirmed => channel.leave(confirm),
        PublishFate::Nacked | PublishFate::Confirmed => {
            channel.answer(confirm, fate == PublishFate::Confirmed);
        }
    }
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

/// Stores a message in the returned queue. Returns `None` if no queue is bound.
fn route(life: &Life, publication: &Publication) -> Option<String> {
    let mut state = life.world.lock();
    let Some(queue) = state.broker().topology.route(&publication.exchange, &publication.routing_key) else {
        state.log(format_args!("{} has no binding", publication.routing_key));
        state.checker.unroutable(publication);
        return None;
    };
    let name = state.checker.name(&publication.body).to_owned();
    state.log(format_args!("{queue}: stored {name}"));
    let delay = state.broker().topology.delay(&queue).map(|(delay, _)| delay);
    let Part { own, common } = state.network();
    let rule = common.checker.stored(own.links(), &queue, delay, publication);
    state.must(rule);
    if queue != GUESTS {
        let message = Stored::new(publication.properties.clone(), publication.body.clone());
        state.broker().store(&life.world, &queue, message);
    }
    Some(queue)
}
