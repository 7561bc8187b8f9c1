//! The broker: each of its nodes, its version, what it can do.

use std::time::Duration;

use futures_util::future::join_all;

use super::{Finding, probe::Probe, queues};
use crate::{
    broker::{
        connection::{BrokerError, Connector, close},
        greeting::Greeting,
    },
    config::Loaded,
};

/// For one answer of the broker.
const ANSWER: Duration = Duration::from_secs(5);
/// Dead-lettering at least once came with the first; nobody has tried what comes after the last.
const VERSIONS: [(u32, u32); 2] = [(3, 10), (4, u32::MAX)];
/// What this program builds on.
const CAPABILITIES: [(&str, &str); 4] = [
    ("publisher_confirms", "a link that is lost is not noticed"),
    ("basic.nack", "a message that the broker refuses is not noticed"),
    ("consumer_cancel_notify", "a queue that is deleted or loses its leader is noticed late"),
    ("connection.blocked", "a broker short of memory or disk is noticed late"),
];

pub(super) async fn look(loaded: &Loaded, found: &mut Vec<Finding>) {
    let connector = Connector::new(&loaded.config);
    let nodes = match connector.nodes() {
        Ok(nodes) => nodes,
        Err(error) => return found.push(Finding::fail("broker", error.to_string()).advise(refused(&error))),
    };
    let tried = join_all((0..nodes).map(|node| connector.connect_to(node, "check"))).await;
    let some = tried.iter().any(Result::is_ok);
    let mut answering = None;
    for (node, tried) in tried.into_iter().enumerate() {
        // By its number: the URL is a secret.
        let what =
            if nodes == 1 { "broker".to_owned() } else { format!("broker node {} of {nodes}", node + 1) };
        match tried {
            Ok(connection) => {
                found.push(Finding::pass(&what, "connected, and logged in"));
                found.extend(greeting(&connector, node, &what).await);
                match answering {
                    None => answering = Some(connection),
                    Some(_) => close(&connection).await,
                }
            }
            Err(error) if some => found.push(Finding::warn(what, error.to_string(), refused(&error))),
            Err(error) => found.push(Finding::fail(what, error.to_string()).advise(refused(&error))),
        }
    }
    if let Some(connection) = answering {
        let limit = loaded.config.amqp.timeout.get().min(ANSWER);
        queues::look(loaded, &Probe::new(&connection, limit), found).await;
        close(&connection).await;
    }
}

/// What to do about a connection that did not come about.
fn refused(error: &BrokerError) -> &'static str {
    match (error.reply_code(), error) {
        (Some(403), _) => {
            "see user and password in amqp.url; RabbitMQ's guest may log in from its own machine alone"
        }
        (Some(530), _) => {
            "see the virtual host in amqp.url, and whether the user may use it (rabbitmqctl list_permissions)"
        }
        (_, BrokerError::Timeout(..)) => {
            "see the host and port in amqp.url, the network, and whether TLS is expected there"
        }
        (_, BrokerError::Unreached(obstacle)) => obstacle.advice(),
        (_, BrokerError::Stranger(_)) => "see the scheme, the host and the port in amqp.url",
        (_, BrokerError::Tls(_)) => "see tls.ca_file, amqp.client_cert_file and amqp.client_key_file",
        (_, BrokerError::SmallFrames(_)) => {
            "set frame_max in rabbitmq.conf to 131072, RabbitMQ's default, or more"
        }
        (_, BrokerError::Url(_)) => "see amqp.url and amqp.url_file",
        _ => "see whether the broker runs, its log, whether it wants TLS there, and all parts of amqp.url",
    }
}

async fn greeting(connector: &Connector, node: usize, what: &str) -> Vec<Finding> {
    match connector.greeting(node).await {
        Ok(greeting) => vec![version(&greeting, what), capabilities(&greeting, what)],
        Err(error) => {
            let detail = format!("what it is could not be found out ({error})");
            vec![Finding::warn(
                format!("{what}, version"),
                detail,
                "see `rabbitmqctl version`: expected 3.10 to 4.x",
            )]
        }
    }
}

pub(super) fn version(greeting: &Greeting, what: &str) -> Finding {
    let what = format!("{what}, version");
    let is = format!("{} {}", greeting.product, greeting.version);
    let [oldest, newest] = VERSIONS;
    match greeting.numbers() {
        Some(_) if greeting.product != "RabbitMQ" => Finding::warn(
            what,
            format!("{is}: this worker builds on RabbitMQ's quorum queues"),
            "use RabbitMQ 3.10 to 4.x",
        ),
        Some(numbers) if numbers < oldest => Finding::warn(
            what,
            format!("{is}: without dead-lettering at least once, messages that are held can be lost"),
            "use RabbitMQ 3.10 to 4.x",
        ),
        Some(numbers) if numbers > newest => Finding::warn(
            what,
            format!("{is}: newer than what this worker was tried with"),
            "use RabbitMQ 3.10 to 4.x, or try it on a copy first",
        ),
        Some(numbers) if numbers == oldest => Finding::pass(
            what,
            format!(
                "{is}: quorum queues; they dead-letter at least once where its feature flag stream_queue is on"
            ),
        ),
        Some(_) => Finding::pass(what, format!("{is}: quorum queues that dead-letter at least once")),
        None => {
            Finding::warn(what, format!("{is}: not a version that can be read"), "use RabbitMQ 3.10 to 4.x")
        }
    }
}

pub(super) fn capabilities(greeting: &Greeting, what: &str) -> Finding {
    let has = |name: &str| greeting.capabilities.iter().any(|able| able == name);
    let lacks: Vec<_> = CAPABILITIES.into_iter().filter(|(name, _)| !has(name)).collect();
    let names = |all: &[(&str, &str)]| all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let what = format!("{what}, capabilities");
    if lacks.is_empty() {
        return Finding::pass(what, names(&CAPABILITIES));
    }
    let means = lacks.iter().map(|(_, means)| *means).collect::<Vec<_>>().join("; ");
    let detail = format!("it lacks {}: {means}", names(&lacks));
    let advice = "use RabbitMQ 3.10 to 4.x, without a proxy that changes what it says";
    // Without the first two nothing can be published at all.
    if lacks.iter().any(|lack| CAPABILITIES[..2].contains(lack)) {
        Finding::fail(what, detail).advise(advice)
    } else {
        Finding::warn(what, detail, advice)
    }
}
