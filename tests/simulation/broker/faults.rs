//! Faults of the broker.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::Semaphore;

use super::{SimulatedQueues, connection::cut};
use crate::world::{Part, World};

/// Closes all connections.
pub(crate) fn cut_all(world: &World, why: &str) {
    let connections = world.lock().broker().connections.clone();
    for wire in &connections {
        cut(world, wire, why);
    }
}

/// Closes one random connection.
pub(crate) fn cut_one(world: &World) {
    let wire = {
        let mut state = world.lock();
        let broker = state.broker();
        let count = broker.connections.len();
        (count > 0)
            .then(|| broker.common.random.usize(..count))
            .map(|index| Arc::clone(&broker.connections[index]))
    };
    if let Some(wire) = wire {
        cut(world, &wire, "the network");
    }
}

impl Part<'_, SimulatedQueues> {
    /// Blocks publishing, or ends that.
    pub(crate) fn block(&mut self, blocked: bool) {
        self.common.log(format_args!("publishing is blocked: {blocked}"));
        self.common.checker.disturbances += 1;
        if let Some(before) = self.blocked.take() {
            before.close();
        }
        self.blocked = blocked.then(|| Arc::new(Semaphore::new(0)));
    }

    /// Stops the deliveries to one random consumer, without a notification.
    pub(crate) fn stall(&mut self) {
        let count = self.subscribers.len();
        if count > 0 {
            let index = self.common.random.usize(..count);
            if let Some(subscriber) = self.subscribers.values_mut().nth(index) {
                subscriber.stalled = true;
                let queue = subscriber.queue.clone();
                self.common.log(format_args!("{queue}: a consumer stalls"));
                self.common.checker.disturbances += 1;
            }
        }
    }

    /// Deletes one random queue that is empty. Returns true if nobody noticed: its consumers were not notified.
    pub(crate) fn delete_queue(&mut self) -> bool {
        let queues = self.topology.queues();
        let empty: Vec<String> = queues.filter(|name| self.is_empty(name)).map(str::to_owned).collect();
        if empty.is_empty() {
            return false;
        }
        let queue = empty[self.common.random.usize(..empty.len())].clone();
        let notified = self.common.random.bool();
        self.common.log(format_args!("{queue} is deleted, its consumers are notified: {notified}"));
        self.common.checker.disturbances += 1;
        let number = self.number();
        self.topology.delete_queue(&queue, number);
        let (gone, left) = std::mem::take(&mut self.subscribers)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(_, subscriber)| subscriber.queue == queue);
        self.subscribers = left;
        if !notified {
            self.forgotten.extend(gone.into_values());
        }
        !notified && self.work.contains(&queue)
    }

    /// Deletes the binding of the routing key `key`.
    pub(crate) fn unbind(&mut self, key: &'static str) {
        self.common.log(format_args!("{key} has no binding"));
        self.common.checker.disturbances += 1;
        self.topology.unbind(key);
    }

    /// The connections that the worker has now, by purpose.
    pub(crate) fn connections(&self) -> BTreeSet<String> {
        self.connections.iter().map(|wire| wire.purpose.clone()).collect()
    }

    /// Declares everything that is missing, as an operator does.
    pub(crate) fn restore(&mut self) {
        self.topology.restore();
    }
}
