//! Checks of the declared topology and of the user's permissions on the broker.

use super::{
    Finding,
    probe::{Probe, ProbeResult, Right},
};
use crate::{
    broker::{
        connection::BrokerError,
        topology::{Declare, Depth, Topology},
    },
    config::Loaded,
};

const DECLARE: &str =
    "declare it with `instant-connect-worker topology --declare`, or set topology.declare to create";
const GRANT: &str = "grant the user configure, write and read on the prefix (rabbitmqctl set_permissions)";

pub(super) async fn run(loaded: &Loaded, probe: &Probe<'_>, found: &mut Vec<Finding>) {
    let topology = loaded.config.topology();
    let declare = loaded.config.topology.declare;
    let plan = topology.plan();
    for exchange in &plan.exchanges {
        let what = format!("exchange {}", exchange.name);
        found.push(declared(what, probe.exchange(exchange).await, declare));
    }
    for queue in &plan.queues {
        let what = format!("queue {}", queue.name);
        let seen = probe.queue(queue).await;
        let missing = matches!(seen, Ok(ProbeResult::Missing | ProbeResult::Forbidden(_)));
        found.push(if missing && declare != Declare::Create && queue.is_replay() {
            Finding::warn(what, "missing; only `dead replay` needs it", DECLARE)
        } else {
            declared(what, seen, declare)
        });
    }
    found.extend(bindings(probe, &topology, declare).await);
    let mut consumed = vec![topology.sessions_queue()];
    if loaded.delivers_to_hosts() {
        consumed.push(topology.hosts_queue());
    }
    for queue in consumed {
        let what = format!("permission to consume from queue {queue}");
        found.push(permitted(what, probe.consume(&queue).await, "grant the user read on the prefix"));
    }
    // Messages for delay and dead queues go through the default exchange.
    let publish = [
        (topology.links_exchange(), "grant the user write on the prefix"),
        (String::new(), "grant the user write on amq.default"),
    ];
    for (exchange, advice) in publish {
        let name = if exchange.is_empty() {
            "the default exchange".to_owned()
        } else {
            format!("exchange {exchange}")
        };
        let what = format!("permission to publish to {name}");
        found.push(permitted(what, probe.publish(&exchange).await, advice));
    }
}

async fn bindings(probe: &Probe<'_>, topology: &Topology, declare: Declare) -> Vec<Finding> {
    if declare != Declare::Create {
        return vec![Finding::warn(
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
        let what = format!("permission to bind queue {queue} to exchange {exchange}");
        found.push(permitted(what, probe.bind(&queue, &exchange).await, GRANT));
    }
    found
}

fn declared(what: String, seen: Result<ProbeResult, BrokerError>, declare: Declare) -> Finding {
    let creates = declare == Declare::Create;
    match seen {
        Ok(ProbeResult::Same(depth)) => {
            Finding::pass(what, format!("exists as declared here{}", holds(depth)))
        }
        Ok(ProbeResult::Differs(argument, message)) => {
            let argument = argument
                .map_or_else(|| "its declaration".to_owned(), |argument| format!("argument {argument}"));
            let detail = format!("exists, but {argument} differs from the one declared here ({message})");
            if creates {
                Finding::fail(what, detail + "; the worker does not start").advise(
                    "delete it once it is empty, change the setting behind this argument, or set topology.declare to check",
                )
            } else {
                Finding::warn(
                    what,
                    detail,
                    "make sure that messages cannot be lost there: compare with `instant-connect-worker topology`",
                )
            }
        }
        Ok(ProbeResult::Hidden(message)) if creates => {
            Finding::fail(what, format!("the user may not declare it ({message}); the worker does not start"))
                .advise(format!("{GRANT}, or set topology.declare to check"))
        }
        Ok(ProbeResult::Hidden(_)) => {
            Finding::pass(what, "the user may not declare it and need not; its arguments can't be compared")
        }
        Ok(ProbeResult::Refused(message)) if declare == Declare::Off => {
            Finding::warn(what, format!("the user may not check whether it exists ({message})"), GRANT)
        }
        Ok(ProbeResult::Refused(message)) => Finding::fail(
            what,
            format!("the user may not check whether it exists ({message}); the worker does not start"),
        )
        .advise(format!("{GRANT}, or set topology.declare to off")),
        Ok(ProbeResult::Missing) if creates => Finding::warn(
            what,
            "missing; the worker declares it at startup",
            "nothing to do, or declare it now with `instant-connect-worker topology --declare`",
        ),
        Ok(ProbeResult::Forbidden(message)) if creates => {
            Finding::fail(what, format!("missing, and the user may not declare it ({message})"))
                .advise(format!("{GRANT}, or ask an administrator to declare it"))
        }
        Ok(ProbeResult::Missing) => Finding::fail(what, "missing").advise(DECLARE),
        Ok(ProbeResult::Forbidden(_)) => Finding::fail(what, "missing")
            .advise("ask an administrator to declare it as `instant-connect-worker topology` prints it"),
        Err(error) => Finding::fail(what, error.to_string())
            .advise("check the broker's log and whether the queue has a leader"),
    }
}

fn holds(depth: Option<Depth>) -> String {
    depth.map_or_else(String::new, |depth| {
        format!("; {} messages ready, {} consumers", depth.ready, depth.consumers)
    })
}

fn permitted(what: String, right: Result<Right, BrokerError>, advice: &str) -> Finding {
    match right {
        Ok(Right::Given) => Finding::pass(what, "given"),
        // Topic permissions depend on the routing key, and the probe used an unused one.
        Ok(Right::Refused(message)) if message.contains("access to topic") => Finding::warn(
            what,
            "given for the exchange; its topic permissions could not be tested",
            "check that `rabbitmqctl list_topic_permissions` allows guest.* and host.webex",
        ),
        Ok(Right::Refused(message)) => Finding::fail(what, format!("refused ({message})")).advise(advice),
        Ok(Right::Blocked) => {
            Finding::fail(what, "the broker blocks all publishers: it is short of memory or disk")
                .advise("check `rabbitmq-diagnostics alarms` and free memory or disk space")
        }
        Err(error) => Finding::fail(what, error.to_string()).advise("check the broker's log"),
    }
}
