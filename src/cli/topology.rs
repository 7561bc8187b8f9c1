//! `topology`: prints or declares exchanges, queues and bindings.

use super::{CommandError, say, say_json};
use crate::{
    broker::{connection::close, topology::Argument},
    config::Loaded,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Declare everything that is missing, even if topology.declare is not create
    #[arg(long)]
    declare: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(loaded: &Loaded, args: &Args) -> Result<(), CommandError> {
    let topology = loaded.config.topology();
    if args.declare {
        let connector = loaded.config.connector();
        let connection = connector.connect_once("topology").await?;
        topology.declare(&connection, false, connector.limits.timeout).await?;
        close(&connection).await;
    }
    let plan = topology.plan();
    if args.json {
        return say_json(&plan);
    }
    for exchange in &plan.exchanges {
        say(&format!("exchange {} ({}, durable)", exchange.name, exchange.kind))?;
    }
    for queue in &plan.queues {
        let arguments = queue.arguments.iter().map(|(name, value)| match value {
            Argument::Text(text) => format!("{name}={text}"),
            Argument::Number(number) => format!("{name}={number}"),
        });
        say(&format!("queue    {} (durable, {})", queue.name, arguments.collect::<Vec<_>>().join(", ")))?;
    }
    for binding in &plan.bindings {
        say(&format!("binding  {} --{}--> {}", binding.exchange, binding.routing_key, binding.queue))?;
    }
    Ok(())
}
