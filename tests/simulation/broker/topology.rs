//! Exchanges, queues and bindings as they were declared.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use instant_connect_worker::broker::topology::{Argument, Binding, Exchange, Queue, TopologyPlan};

/// A refusal of the broker: the reply code and text.
pub(super) type Refused = (u16, String);

/// What exists on the broker.
pub(super) struct DeclaredTopology {
    plan: TopologyPlan,
    exchanges: BTreeSet<String>,
    queues: BTreeMap<String, Vec<(&'static str, Argument)>>,
    /// Exchange, routing key and queue of each binding.
    bindings: BTreeSet<(String, &'static str, String)>,
    /// The number of the last deletion of each queue that was deleted.
    deleted: BTreeMap<String, u64>,
}

impl DeclaredTopology {
    pub(super) fn new(plan: TopologyPlan) -> Self {
        let mut new = Self {
            plan,
            exchanges: BTreeSet::new(),
            queues: BTreeMap::new(),
            bindings: BTreeSet::new(),
            deleted: BTreeMap::new(),
        };
        new.restore();
        new
    }

    /// Declares everything that is missing.
    pub(super) fn restore(&mut self) {
        let TopologyPlan { exchanges, queues, bindings } = self.plan.clone();
        for exchange in exchanges {
            self.exchanges.insert(exchange.name);
        }
        for Queue { name, arguments } in queues {
            self.queues.entry(name).or_insert(arguments);
        }
        for Binding { exchange, routing_key, queue } in bindings {
            self.bindings.insert((exchange, routing_key, queue));
        }
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = &str> {
        self.queues.keys().map(String::as_str)
    }

    pub(super) fn has_queue(&self, name: &str) -> bool {
        self.queues.contains_key(name)
    }

    pub(super) fn declare_exchange(&mut self, exchange: &Exchange, passive: bool) -> Result<(), Refused> {
        if passive && !self.exchanges.contains(&exchange.name) {
            return Err(not_found("exchange", &exchange.name));
        }
        self.exchanges.insert(exchange.name.clone());
        Ok(())
    }

    pub(super) fn declare_queue(
        &mut self,
        name: &str,
        arguments: &[(&'static str, Argument)],
        passive: bool,
    ) -> Result<(), Refused> {
        match self.queues.get(name) {
            None if passive => return Err(not_found("queue", name)),
            None => _ = self.queues.insert(name.to_owned(), arguments.to_vec()),
            Some(before) if !passive && before != arguments => {
                return Err((406, format!("PRECONDITION_FAILED - inequivalent arg for queue '{name}'")));
            }
            Some(_) => {}
        }
        Ok(())
    }

    pub(super) fn bind(&mut self, binding: &Binding) -> Result<(), Refused> {
        let Binding { exchange, routing_key, queue } = binding.clone();
        if !self.queues.contains_key(&queue) || !self.exchanges.contains(&exchange) {
            return Err(not_found("queue", &queue));
        }
        self.bindings.insert((exchange, routing_key, queue));
        Ok(())
    }

    pub(super) fn unbind(&mut self, key: &str) {
        self.bindings.retain(|(_, bound, _)| *bound != key);
    }

    pub(super) fn delete_queue(&mut self, name: &str, number: u64) {
        self.queues.remove(name);
        self.deleted.insert(name.to_owned(), number);
        self.bindings.retain(|(_, _, queue)| queue != name);
    }

    /// True if a queue was ever deleted.
    pub(super) fn has_deleted(&self) -> bool {
        !self.deleted.is_empty()
    }

    /// True if the queue `name` was deleted after `number`.
    pub(super) fn deleted_since(&self, name: &str, number: u64) -> bool {
        self.deleted.get(name).is_some_and(|deleted| *deleted > number)
    }

    /// The delay of the delay queue `name`, and the queue that has the messages afterwards.
    pub(super) fn delay(&self, name: &str) -> Option<(Duration, String)> {
        let arguments = self.queues.get(name)?;
        let argument =
            |wanted: &str| arguments.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value);
        let (Some(Argument::Number(ttl)), Some(Argument::Text(target))) =
            (argument("x-message-ttl"), argument("x-dead-letter-routing-key"))
        else {
            return None;
        };
        Some((Duration::from_millis(u64::try_from(*ttl).unwrap_or_default()), target.clone()))
    }

    /// The queue to which a message goes.
    pub(super) fn route(&self, exchange: &str, key: &str) -> Option<String> {
        if exchange.is_empty() {
            return self.queues.contains_key(key).then(|| key.to_owned());
        }
        let matches = |bound: &str| {
            bound == key || bound.strip_suffix('#').is_some_and(|beginning| key.starts_with(beginning))
        };
        let binding = self.bindings.iter().find(|(from, bound, _)| from == exchange && matches(bound));
        binding.map(|(_, _, queue)| queue.clone())
    }
}

pub(super) fn not_found(kind: &str, name: &str) -> Refused {
    (404, format!("NOT_FOUND - no {kind} '{name}'"))
}
