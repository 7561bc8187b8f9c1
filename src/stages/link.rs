//! Stage `link`: a start event becomes links.

use jiff::Timestamp;
use tracing::debug;

use super::Stage;
use crate::{
    contract::{
        link::Outgoing,
        message::Message,
        private::loggable_id,
        start_session::{self, Identity, Refusal, Rules, Session},
    },
    instant_connect::{Client, Links},
    outcome::{Class, Death, Outcome},
};

/// Stage `link`.
#[derive(Debug)]
pub struct Link {
    client: Client,
    rules: Rules,
}

impl Link {
    /// The stage, with the client it calls and the rules for events.
    #[must_use]
    pub const fn new(client: Client, rules: Rules) -> Self {
        Self { client, rules }
    }
}

impl Stage for Link {
    const NAME: &'static str = "link";

    fn identify(&self, message: &Message) -> Identity {
        start_session::identify(message)
    }

    async fn handle(&self, message: &Message) -> Outcome {
        let session = match Session::read(message, &self.rules, Timestamp::now()) {
            Ok(session) => session,
            Err(refusal) => return Outcome::Dead(refused(&refusal)),
        };
        debug!(
            event_id = %loggable_id(session.event_id.as_str()), trace_id = session.trace.trace_id(),
            session = %loggable_id(session.session_id.reveal()), guests = session.guests.len(),
            experts = session.experts.len(), devices = session.devices.len(), "start event taken"
        );
        match self.client.links(&session).await {
            Ok(links) => publish(&session, links),
            Err(error) => error.into_outcome(session.expires_at),
        }
    }
}

fn refused(refusal: &Refusal) -> Death {
    let class = match refusal {
        Refusal::Invalid(_) => Class::Invalid,
        Refusal::Expired(_) => Class::Expired,
        Refusal::DeviceNotAllowed(_) => Class::DeviceNotAllowed,
    };
    Death::new(class, refusal)
}

/// One message for each link. Guests' links go to guests and hosts' to hosts by type: see [`Outgoing`].
fn publish(session: &Session, links: Links) -> Outcome {
    let guests = links
        .guests
        .into_iter()
        .enumerate()
        .map(|(position, address)| Outgoing::guest(session, position, address));
    let hosts = links
        .hosts
        .into_iter()
        .enumerate()
        .map(|(position, address)| Outgoing::host(session, position, address));
    match guests.chain(hosts).collect() {
        Ok(messages) => Outcome::Done(messages),
        Err(_) => Outcome::Dead(Death::new(Class::Internal, "a link message could not be written as JSON")),
    }
}
