//! Faults of the broker.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::Semaphore;

use super::cut;
use crate::world::{World, WorldState};

/// Closes all connections.
pub(crate) fn cut_all(world: &World, why: &str) {
    let connections = world.lock().broker.connections.clone();
    for wire in &connections {
        cut(world, wire, why);
    }
}

/// Closes one random connection.
pub(crate) fn cut_one(world: &World) {
    let wire = {
        let mut state = world.lock();
        let count = state.broker.connections.len();
        (count > 0)
            .then(|| state.random.usize(..count))
            .map(|index| Arc::clone(&state.broker.connections[index]))
    };
    if let Some(wire) = wire {
        cut(world, &wire, "the network");
    }
}

/// Blocks publishing, or ends that.
pub(crate) fn block(state: &mut WorldState, blocked: bool) {
    state.log(format_args!("publishing is blocked: {blocked}"));
    state.checker.disturbances += 1;
    if let Some(before) = state.broker.blocked.take() {
        before.close();
    }
    state.broker.blocked = blocked.then(|| Arc::new(Semaphore::new(0)));
}

/// Stops the deliveries to one random consumer, without a notification.
pub(crate) fn stall(state: &mut WorldState) {
    let count = state.broker.subscribers.len();
    if count > 0 {
        let index = state.random.usize(..count);
        if let Some(subscriber) = state.broker.subscribers.values_mut().nth(index) {
            subscriber.stalled = true;
            let queue = subscriber.queue.clone();
            state.log(format_args!("{queue}: a consumer stalls"));
            state.checker.disturbances += 1;
        }
    }
}

/// Deletes one random queue that is empty. Returns true if nobody noticed: its consumers were not notified.
pub(crate) fn delete_queue(state: &mut WorldState) -> bool {
    let empty: Vec<String> = state
        .broker
        .topology
        .queues()
        .filter(|name| state.broker.is_empty(name))
        .map(str::to_owned)
        .collect();
    if empty.is_empty() {
        return false;
    }
    let queue = empty[state.random.usize(..empty.len())].clone();
    let notified = state.random.bool();
    state.log(format_args!("{queue} is deleted, its consumers are notified: {notified}"));
    state.checker.disturbances += 1;
    let number = state.broker.number();
    state.broker.topology.delete_queue(&queue, number);
    let (gone, left) = std::mem::take(&mut state.broker.subscribers)
        .into_iter()
        .partition::<BTreeMap<_, _>, _>(|(_, subscriber)| subscriber.queue == queue);
    state.broker.subscribers = left;
    if !notified {
        state.broker.forgotten.extend(gone.into_values());
    }
    !notified && state.broker.work.contains(&queue)
}

/// Deletes the binding of the routing key `key`.
pub(crate) fn unbind(state: &mut WorldState, key: &'static str) {
    state.log(format_args!("{key} has no binding"));
    state.checker.disturbances += 1;
    state.broker.topology.unbind(key);
}

/// The connections that the worker has now, by purpose.
pub(crate) fn connections(state: &WorldState) -> BTreeSet<String> {
    state.broker.connections.iter().map(|wire| wire.purpose.clone()).collect()
}

/// Declares everything that is missing, as an operator does.
pub(crate) fn restore(state: &mut WorldState) {
    state.broker.topology.restore();
}
