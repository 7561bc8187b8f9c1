//! Carries an outcome out: publishes what it names, with confirms, then settles the delivery. The one place where
//! deliveries are acknowledged.

use std::time::Duration;

use jiff::Timestamp;
use lapin::{
    Acker, BasicProperties,
    options::{BasicAckOptions, BasicNackOptions},
};
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::{
    connection::within,
    properties,
    publisher::{Publication, PublishError, Publisher},
    topology::Topology,
};
use crate::{
    contract::{link::Outgoing, message::Message},
    outcome::{Class, Death, Outcome},
    retry,
};

/// What a delivery leaves behind when its body is taken out: what is needed to settle it.
#[derive(Debug)]
pub struct Ticket {
    /// Acknowledges.
    pub acker: Acker,
    /// As they came.
    pub properties: BasicProperties,
    /// How the delivery is called in logs.
    pub event_id: String,
    /// Until when it may be kept: after that it goes back to the broker.
    pub keep_until: Instant,
}

/// Settles the deliveries of one queue.
#[derive(Clone, Debug)]
pub struct Settler {
    publisher: Publisher,
    queue: String,
    links_exchange: String,
    limit: Duration,
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Everything published, acknowledged.
    Done,
    /// In the dead queue, acknowledged.
    Dead(Class),
    /// Given back to the broker.
    Returned,
    /// Its channel is gone: the broker delivers it again.
    Lost,
}

impl Settler {
    /// For deliveries of `queue`.
    #[must_use]
    pub fn new(publisher: Publisher, topology: &Topology, queue: String, limit: Duration) -> Self {
        Self { publisher, queue, links_exchange: topology.links_exchange(), limit }
    }

    /// Carries `outcome` out. `TryAgain` and `Wait` are the consumer's and are given back here as they are.
    pub async fn settle(&self, ticket: &Ticket, message: &Message, outcome: Outcome) -> Settled {
        let now = Timestamp::now();
        match outcome {
            Outcome::Done(outgoing) => {
                let publications = outgoing.iter().map(|outgoing| self.link(outgoing, now)).collect();
                match self.publish(ticket, publications).await {
                    Ok(()) => self.ack(ticket, Settled::Done).await,
                    Err(PublishError::Unroutable) => {
                        let reason = format!(
                            "no queue is bound to exchange {} for {}",
                            self.links_exchange,
                            keys(&outgoing)
                        );
                        self.dead(ticket, message, &Death::new(Class::Unroutable, reason)).await
                    }
                    Err(error) => self.give_back(ticket, &error.to_string()).await,
                }
            }
            Outcome::Dead(death) => self.dead(ticket, message, &death).await,
            Outcome::TryAgain(failure) | Outcome::Wait(failure) => {
                self.give_back(ticket, &failure.reason).await
            }
            Outcome::HandedBack => self.give_back(ticket, "the worker is shutting down").await,
        }
    }

    async fn dead(&self, ticket: &Ticket, message: &Message, death: &Death) -> Settled {
        let letter = Publication {
            exchange: String::new(),
            routing_key: Topology::dead_queue(&self.queue),
            properties: properties::dead(&ticket.properties, message, death, Timestamp::now()),
            body: message.body.as_slice().into(),
        };
        match self.publish(ticket, vec![letter]).await {
            Ok(()) => {
                warn!(
                    event_id = ticket.event_id,
                    queue = self.queue,
                    class = death.class.as_str(),
                    reason = death.reason,
                    "dead letter"
                );
                self.ack(ticket, Settled::Dead(death.class)).await
            }
            Err(error) => {
                error!(event_id = ticket.event_id, queue = self.queue, class = death.class.as_str(), %error, "no dead letter could be written; the message stays");
                self.give_back(ticket, "its dead letter could not be written").await
            }
        }
    }

    fn link(&self, outgoing: &Outgoing, now: Timestamp) -> Publication {
        Publication {
            exchange: self.links_exchange.clone(),
            routing_key: outgoing.routing_key.to_owned(),
            properties: properties::link(outgoing, now),
            body: outgoing.body.reveal().as_slice().into(),
        }
    }

    /// Publishes all, and what did not arrive again, until all are confirmed, one is unroutable, the delivery's time is
    /// up or its channel is gone.
    async fn publish(&self, ticket: &Ticket, mut publications: Vec<Publication>) -> Result<(), PublishError> {
        let mut tries = 0;
        loop {
            // What this channel delivered is delivered again when it is gone: publishing now would repeat it.
            if !ticket.acker.usable() {
                return Err(PublishError::Unknown);
            }
            let attempt = self.publisher.publish(publications.clone());
            let results = tokio::time::timeout_at(ticket.keep_until, attempt)
                .await
                .map_err(|_| PublishError::Unknown)?;
            if results.contains(&Err(PublishError::Unroutable)) {
                return Err(PublishError::Unroutable);
            }
            let Some(error) = results.iter().find_map(|result| result.err()) else { return Ok(()) };
            let failed = publications.into_iter().zip(&results).filter(|(_, result)| result.is_err());
            publications = failed.map(|(publication, _)| publication).collect();
            tries += 1;
            let wait = retry::reconnect_wait(
                Duration::from_millis(50),
                Duration::from_secs(5),
                tries,
                fastrand::f64(),
            );
            if error == PublishError::Ended || Instant::now() + wait >= ticket.keep_until {
                return Err(error);
            }
            sleep(wait).await;
        }
    }

    async fn ack(&self, ticket: &Ticket, settled: Settled) -> Settled {
        match within("acknowledge", self.limit, ticket.acker.ack(BasicAckOptions::default())).await {
            Ok(true) => settled,
            Ok(false) => self.lost(ticket, "its channel is closed"),
            Err(error) => self.lost(ticket, &error.to_string()),
        }
    }

    async fn give_back(&self, ticket: &Ticket, reason: &str) -> Settled {
        let options = BasicNackOptions { requeue: true, multiple: false };
        match within("give back", self.limit, ticket.acker.nack(options)).await {
            Ok(true) => {
                info!(
                    event_id = ticket.event_id,
                    queue = self.queue,
                    reason,
                    "given back to the broker, nothing counted"
                );
                Settled::Returned
            }
            Ok(false) => self.lost(ticket, "its channel is closed"),
            Err(error) => self.lost(ticket, &error.to_string()),
        }
    }

    fn lost(&self, ticket: &Ticket, reason: &str) -> Settled {
        warn!(
            event_id = ticket.event_id,
            queue = self.queue,
            reason,
            "not settled; the broker will deliver it again"
        );
        Settled::Lost
    }
}

/// The routing keys of `outgoing`, each once.
fn keys(outgoing: &[Outgoing]) -> String {
    let mut keys: Vec<_> = outgoing.iter().map(|outgoing| outgoing.routing_key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.join(" or ")
}
