//! Routes on which a channel refuses everything, so that it must be replaced.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::broker::port::MessageKey;

/// Time for which a channel may refuse all messages of a route before it is replaced. Doubles each time that a new
/// channel does not help.
const REFUSING: Duration = Duration::from_secs(1);
/// Maximum of this time.
const REFUSING_MAX: Duration = Duration::from_secs(64);

/// Routes whose messages a channel refuses. When a RabbitMQ channel first publishes to a quorum queue, it asks the
/// queue's leader if it accepts messages. If the leader's node died a moment ago, the channel never asks another
/// node. It then refuses everything on this route until it is closed (seen on 3.10). A full queue looks the same, but
/// a new channel does not help.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Routes on which the channel delivered.
    delivered: HashSet<Route>,
    /// Other routes on which it refused, with the time of the first refusal.
    refused: BTreeMap<Route, Instant>,
    /// Time after which a channel is replaced, for routes on which a new channel did not help.
    waits: BTreeMap<Route, Duration>,
}

/// An exchange and a routing key.
type Route = (String, String);

impl Refusals {
    /// Starts over for a new channel.
    pub(super) fn reset(&mut self) {
        self.delivered.clear();
        self.refused.clear();
    }

    /// Records the broker's reply to a message.
    pub(super) fn record(&mut self, key: &MessageKey, delivered: bool) {
        let route = (key.exchange.clone(), key.routing_key.clone());
        if self.delivered.contains(&route) {
            return;
        }
        if delivered {
            self.refused.remove(&route);
            self.waits.remove(&route);
            self.delivered.insert(route);
        } else {
            self.refused.entry(route).or_insert_with(Instant::now);
        }
    }

    /// Returns true if the channel should be replaced, and doubles the time for the next one.
    pub(super) fn take_due(&mut self) -> bool {
        let waits = &mut self.waits;
        let due = self.refused.iter().find_map(|(route, since)| {
            let wait = *waits.get(route).unwrap_or(&REFUSING);
            (since.elapsed() >= wait).then(|| (route.clone(), (wait * 2).min(REFUSING_MAX)))
        });
        let is_due = due.is_some();
        waits.extend(due);
        is_due
    }
}

#[cfg(test)]
mod tests;
