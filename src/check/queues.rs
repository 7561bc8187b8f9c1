//! Checks of the declared topology and of the user's permissions on the broker.

use std::collections::BTreeSet;

use super::{
    CheckGroup::Broker,
    Finding,
    probe::{Probe, ProbeResult, Right},
};
use crate::{
    broker::{
        connection::BrokerError,
        topology::{Declare, Depth, LEFTOVER_ADVICE, Topology, rival_exists},
    },
    config::Loaded,
    contract::{link, receipt, start_session},
};

const DECLARE: &str = "run `instant-connect-worker topology --declare`, or set topology.declare to create";
const GRANT: &str = "grant the user configure, write and read on the prefix, and write on amq.default (rabbitmqctl set_permissions)";

/// A kind of items on the broker.
#[derive(Clone, Copy, Debug)]
struct Kind {
    singular: &'static str,
    plural: &'static str,
}

const EXCHANGE: Kind = Kind { singular: "exchange", plural: "exchanges" };
const QUEUE: Kind = Kind { singular: "queue", plural: "queues" };
const CONSUME: Kind =
    Kind { singular: "permission to consume from queue", plural: "permissions to consume from queues" };
const PUBLISH: Kind = Kind { singular: "permission to publish to", plural: "permissions to publish" };
const BIND: Kind = Kind { singular: "permission to bind queue", plural: "permissions to bind queues" };

impl Kind {
    fn item(self, name: &str) -> String {
        format!("{} {name}", self.singular)
    }
}

pub(super) async fn run(loaded: &Loaded, probe: &Probe<'_>, found: &mut Vec<Finding>) {
    let topology = loaded.config.topology();
    let declare = loaded.config.topology.declare;
    let plan = topology.plan();
    for exchange in &plan.exchanges {
        found.push(declared(EXCHANGE, &exchange.name, probe.exchange(exchange).await, declare));
    }
    for queue in &plan.queues {
        let seen = probe.queue(queue).await;
        let missing = matches!(seen, Ok(ProbeResult::Missing | ProbeResult::Forbidden(_)));
        found.push(if missing && declare != Declare::Create && queue.is_replay() {
            let what = QUEUE.item(&queue.name);
            let finding = Broker.warn(what, "missing; only `dead replay` needs it", DECLARE);
            finding.one_of(QUEUE.plural, &queue.name)
        } else {
            declared(QUEUE, &queue.name, seen, declare)
        });
    }
    found.extend(bindings(probe, &topology, declare).await);
    found.extend(superseded(probe, &topology).await);
    let stages = loaded.stages();
    for stage in &stages {
        let queue = topology.queue(stage.queue);
        found.push(permitted(
            CONSUME,
            &queue,
            probe.consume(&queue).await,
            "grant the user read on the prefix",
        ));
    }
    // Messages for delay and dead queues go through the default exchange.
    let mut exchanges: BTreeSet<_> =
        stages.iter().flat_map(|stage| stage.routes).map(|route| topology.exchange(route.exchange)).collect();
    if loaded.config.ingress.listen.is_some() {
        let receipts = loaded.config.takes_receipts().then_some(receipt::EXCHANGE);
        let links = loaded.config.falls_back_to_sms().then_some(link::EXCHANGE);
        let used = [start_session::EXCHANGE].into_iter().chain(receipts).chain(links);
        exchanges.extend(used.map(|name| topology.exchange(name)));
    }
    let prefixed = exchanges.into_iter().map(|exchange| (exchange, "grant the user write on the prefix"));
    let default = (String::new(), "grant the user write on amq.default");
    for (exchange, advice) in prefixed.chain([default]) {
        let name = if exchange.is_empty() {
            "the default exchange".to_owned()
        } else {
            format!("exchange {exchange}")
        };
        found.push(permitted(PUBLISH, &name, probe.publish(&exchange).await, advice));
    }
}

/// Queues of another `guests.delivery`.
async fn superseded(probe: &Probe<'_>, topology: &Topology) -> Vec<Finding> {
    let (mut found, rivals) = (Vec::new(), topology.rivals());
    for queue in topology.superseded() {
        let name = topology.queue(queue);
        let Ok(Some(depth)) = probe.depth(&name).await else { continue };
        let what = QUEUE.item(&name);
        found.push(if rivals.contains(&queue) {
            Broker.fail(what, rival_exists(&name)).advise("delete it once it is empty; the worker does not start before")
        } else {
            let detail = format!(
                "exists, but guests.delivery does not use it, so nobody sends its links{}. If it is bound, links also wait there until it is full; then the broker \
                 refuses all links",
                holds(Some(depth))
            );
            Broker.warn(what, detail, LEFTOVER_ADVICE)
        });
    }
    found
}

async fn bindings(probe: &Probe<'_>, topology: &Topology, declare: Declare) -> Vec<Finding> {
    if declare != Declare::Create {
        return vec![Broker.warn(
            "bindings",
            "AMQP has no way to check bindings",
            "compare `instant-connect-worker topology` with `rabbitmqctl list_bindings`",
        )];
    }
    let mut pairs: Vec<_> =
        topology.plan().bindings.into_iter().map(|binding| (binding.queue, binding.exchange)).collect();
    pairs.dedup();
    let mut found = Vec::new();
    for (queue, exchange) in pairs {
        let name = format!("{queue} to exchange {exchange}");
        found.push(permitted(BIND, &name, probe.bind(&queue, &exchange).await, GRANT));
    }
    found
}

fn declared(kind: Kind, name: &str, seen: Result<ProbeResult, BrokerError>, declare: Declare) -> Finding {
    let creates = declare == Declare::Create;
    let what = kind.item(name);
    let (finding, message) = match seen {
        Ok(ProbeResult::Same(depth)) => {
            (Broker.pass(what, format!("exists as declared here{}", holds(depth))), None)
        }
        Ok(ProbeResult::Differs(argument, message)) => (differs(what, argument, creates), Some(message)),
        Ok(ProbeResult::Hidden(message)) if creates => (
            Broker
                .fail(what, "the user may not declare it; the worker does not start")
                .advise(format!("{GRANT}, or set topology.declare to check")),
            Some(message),
        ),
        Ok(ProbeResult::Hidden(_)) => (
            Broker.pass(what, "the user may not declare it and need not; its arguments cannot be compared"),
            None,
        ),
        Ok(ProbeResult::Refused(message)) if declare == Declare::Off => {
            (Broker.warn(what, "the user may not check whether it exists", GRANT), Some(message))
        }
        Ok(ProbeResult::Refused(message)) => (
            Broker
                .fail(what, "the user may not check whether it exists; the worker does not start")
                .advise(format!("{GRANT}, or set topology.declare to off")),
            Some(message),
        ),
        Ok(ProbeResult::Missing) if creates => (
            Broker.warn(
                what,
                "missing; the worker declares it at startup",
                "nothing to do, or run `instant-connect-worker topology --declare` now",
            ),
            None,
        ),
        Ok(ProbeResult::Forbidden(message)) if creates => (
            Broker
                .fail(what, "missing, and the user may not declare it")
                .advise(format!("{GRANT}, or ask an administrator to declare it")),
            Some(message),
        ),
        Ok(ProbeResult::Missing) => (Broker.fail(what, "missing").advise(DECLARE), None),
        Ok(ProbeResult::Forbidden(_)) => (
            Broker
                .fail(what, "missing")
                .advise("ask an administrator to declare it as `instant-connect-worker topology` prints it"),
            None,
        ),
        Err(error) => (
            Broker
                .fail(what, error.to_string())
                .advise("check the broker's log and whether the queue has a leader"),
            None,
        ),
    };
    finding.one_of(kind.plural, name).quoting(message.as_deref())
}

/// The finding for an item whose `argument`, if known, differs on the broker.
fn differs(what: String, argument: Option<String>, creates: bool) -> Finding {
    let argument =
        argument.map_or_else(|| "its declaration".to_owned(), |argument| format!("argument {argument}"));
    let detail = format!("exists, but {argument} differs from the one declared here");
    if creates {
        Broker.fail(what, detail + "; the worker does not start").advise(
            "delete it once it is empty, change the setting behind this argument, or set topology.declare to check",
        )
    } else {
        Broker.warn(
            what,
            detail,
            "make sure that messages cannot be lost there: compare with `instant-connect-worker topology`",
        )
    }
}

fn holds(depth: Option<Depth>) -> String {
    depth.map_or_else(String::new, |depth| {
        format!("; {} messages ready, {} consumers", depth.ready, depth.consumers)
    })
}

fn permitted(kind: Kind, name: &str, right: Result<Right, BrokerError>, advice: &str) -> Finding {
    let what = kind.item(name);
    let (finding, message) = match right {
        Ok(Right::Given) => (Broker.pass(what, "given"), None),
        // Topic permissions depend on the routing key, and the probe used an unused one.
        Ok(Right::Refused(message)) if message.contains("access to topic") => (
            Broker.warn(
                what,
                "given for the exchange; its topic permissions could not be tested",
                "check that `rabbitmqctl list_topic_permissions` allows guest.* and host.webex, and for an ingress session.start and receipt.*",
            ),
            None,
        ),
        Ok(Right::Refused(message)) => (Broker.fail(what, "refused").advise(advice), Some(message)),
        Ok(Right::Blocked) => (
            Broker
                .fail(what, "the broker blocks all publishers: it is short of memory or disk")
                .advise("check `rabbitmq-diagnostics alarms` and free memory or disk space"),
            None,
        ),
        Err(error) => (Broker.fail(what, error.to_string()).advise("check the broker's log"), None),
    };
    finding.one_of(kind.plural, name).quoting(message.as_deref())
}
