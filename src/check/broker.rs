//! Checks of the broker: each node, its version and its capabilities.

use std::time::Duration;

use futures_util::future::join_all;

use super::{CheckGroup::Broker, Finding, probe::Probe, queues};
use crate::{
    broker::{
        connection::{BrokerError, Connector, close},
        greeting::Greeting,
    },
    config::Loaded,
};

/// Time limit for one reply of the broker.
const ANSWER: Duration = Duration::from_secs(5);
/// The first version has at-least-once dead-lettering; versions after the last are untested.
const VERSIONS: [(u32, u32); 2] = [(3, 10), (4, u32::MAX)];
/// The capabilities that this program needs, each with the consequence of its absence.
const CAPABILITIES: [(&str, &str); 4] = [
    ("publisher_confirms", "lost links cannot be detected"),
    ("basic.nack", "messages that the broker refuses cannot be detected"),
    ("consumer_cancel_notify", "a queue that is deleted or loses its leader is detected late"),
    ("connection.blocked", "a broker short of memory or disk is detected late"),
];

pub(super) async fn run(loaded: &Loaded, found: &mut Vec<Finding>) {
    let connector = loaded.config.connector();
    let nodes = match connector.nodes() {
        Ok(nodes) => nodes,
        Err(error) => return found.push(Broker.fail("broker", error.to_string()).advise(refused(&error))),
    };
    let tried = join_all((0..nodes).map(|node| connector.connect_to(node, "check"))).await;
    let some = tried.iter().any(Result::is_ok);
    let mut answering = None;
    for (node, tried) in tried.into_iter().enumerate() {
        // Named by its number because the URL is a secret.
        let what =
            if nodes == 1 { "broker".to_owned() } else { format!("broker node {} of {nodes}", node + 1) };
        match tried {
            Ok(connection) => {
                found.push(Broker.pass(&what, "connected and logged in"));
                found.extend(greeting(&connector, node, &what).await);
                match answering {
                    None => answering = Some(connection),
                    Some(_) => close(&connection).await,
                }
            }
            Err(error) if some => found.push(Broker.warn(what, error.to_string(), refused(&error))),
            Err(error) => found.push(Broker.fail(what, error.to_string()).advise(refused(&error))),
        }
    }
    if let Some(connection) = answering {
        let limit = loaded.config.amqp.timeout.get().min(ANSWER);
        queues::run(loaded, &Probe::new(&connection, limit), found).await;
        close(&connection).await;
    }
}

/// Advice for a connection that failed.
fn refused(error: &BrokerError) -> &'static str {
    match (error.reply_code(), error) {
        (Some(403), _) => {
            "check user and password in amqp.url; RabbitMQ's guest can log in only from the broker's own machine"
        }
        (Some(530), _) => {
            "check the virtual host in amqp.url and the user's permissions on it (rabbitmqctl list_permissions)"
        }
        (_, BrokerError::Timeout(..)) => {
            "check host and port in amqp.url, the network, and whether that port expects TLS"
        }
        (_, BrokerError::Unreached(obstacle)) => obstacle.advice(),
        (_, BrokerError::NonBroker(_)) => "check scheme, host and port in amqp.url",
        (_, BrokerError::Tls(_)) => "check tls.ca_file, amqp.client_cert_file and amqp.client_key_file",
        (_, BrokerError::SmallFrames(_)) => {
            "set frame_max in rabbitmq.conf to at least 131072, RabbitMQ's default"
        }
        (_, BrokerError::Url(_)) => "check amqp.url and amqp.url_file",
        _ => "check that the broker runs, its log, whether that port expects TLS, and all parts of amqp.url",
    }
}

async fn greeting(connector: &Connector, node: usize, what: &str) -> Vec<Finding> {
    match connector.greeting(node).await {
        Ok(greeting) => vec![version(&greeting, what), capabilities(&greeting, what)],
        Err(error) => {
            let detail = format!("could not read the broker's version ({error})");
            vec![Broker.warn(
                format!("{what}, version"),
                detail,
                "check `rabbitmqctl version`: expected 3.10 to 4.x",
            )]
        }
    }
}

pub(super) fn version(greeting: &Greeting, what: &str) -> Finding {
    let what = format!("{what}, version");
    let is = format!("{} {}", greeting.product, greeting.version);
    let [oldest, newest] = VERSIONS;
    match greeting.numbers() {
        Some(_) if greeting.product != "RabbitMQ" => Broker.warn(
            what,
            format!("{is}: this worker needs RabbitMQ's quorum queues"),
            "use RabbitMQ 3.10 to 4.x",
        ),
        Some(numbers) if numbers < oldest => Broker.warn(
            what,
            format!("{is}: has no at-least-once dead-lettering, so messages in delay queues can be lost"),
            "use RabbitMQ 3.10 to 4.x",
        ),
        Some(numbers) if numbers > newest => Broker.warn(
            what,
            format!("{is}: newer than any version this worker was tested with"),
            "use RabbitMQ 3.10 to 4.x, or test this version on a copy first",
        ),
        Some(numbers) if numbers == oldest => Broker.pass(
            what,
            format!(
                "{is}: quorum queues, with at-least-once dead-lettering if the feature flag stream_queue is on"
            ),
        ),
        Some(_) => Broker.pass(what, format!("{is}: quorum queues with at-least-once dead-lettering")),
        None => Broker.warn(what, format!("{is}: unreadable version number"), "use RabbitMQ 3.10 to 4.x"),
    }
}

pub(super) fn capabilities(greeting: &Greeting, what: &str) -> Finding {
    let has = |name: &str| greeting.capabilities.iter().any(|able| able == name);
    let missing: Vec<_> = CAPABILITIES.into_iter().filter(|(name, _)| !has(name)).collect();
    let names = |all: &[(&str, &str)]| all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let what = format!("{what}, capabilities");
    if missing.is_empty() {
        return Broker.pass(what, names(&CAPABILITIES));
    }
    let consequences = missing.iter().map(|(_, consequence)| *consequence).collect::<Vec<_>>().join("; ");
    let detail = format!("missing: {}; consequences: {consequences}", names(&missing));
    let advice = "use RabbitMQ 3.10 to 4.x, without a proxy that changes its greeting";
    // Without the first two, nothing can be published.
    if missing.iter().any(|capability| CAPABILITIES[..2].contains(capability)) {
        Broker.fail(what, detail).advise(advice)
    } else {
        Broker.warn(what, detail, advice)
    }
}
