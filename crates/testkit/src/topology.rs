//! The queues and exchanges that the program declares.

use crate::{
    amqp::Amqp,
    program::{self, Environment},
};

/// Deletes the queues and exchanges that the program declares in these environments.
pub async fn delete_topology(url: &str, environments: &[Environment]) {
    let amqp = Amqp::connect(url).await;
    for environment in environments {
        let queues = planned("queues", environment).await;
        amqp.delete_queues(queues.iter().map(String::as_str)).await;
        let exchanges = planned("exchanges", environment).await;
        amqp.delete_exchanges(exchanges.iter().map(String::as_str)).await;
    }
}

/// The names of the objects that the program declares in this environment.
pub async fn planned(kind: &str, environment: &Environment) -> Vec<String> {
    let plan = program::finished(&["topology", "--json"], environment).await.json();
    let things = plan[kind].as_array().unwrap();
    things.iter().map(|thing| thing["name"].as_str().unwrap().to_owned()).collect()
}
