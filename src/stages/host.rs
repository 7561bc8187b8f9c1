//! Stage `host`: sends a host link to the expert as a Webex message.

use std::time::Duration;

use serde::Deserialize;
use tracing::info;

use super::{
    Stage,
    deduplicator::{Begun, Deduplicator},
};
use crate::{
    clock,
    contract::{
        BODY_BYTES_MAX,
        decode::{self, Invalid, Problem},
        ids::{self, EventId},
        link::HostLink,
        message::Message,
        people::ExpertDestination,
        start_session::Identity,
        time::WireTime,
        trace::TraceContext,
    },
    fault,
    instant_connect::response::LinkRules,
    ledger::Lease,
    outcome::{Batch, Class, Death, Outcome},
    webex::WebexClient,
};

/// Ledger note before a message is sent, and ledger result afterwards.
const SENDING: &[u8] = b"sending";
const DELIVERED: &[u8] = b"delivered";

/// Copies of a link's bytes in memory at the same time: received, parsed, serialised, being sent.
const COPIES: usize = 4;

/// Stage `host`.
#[derive(Debug)]
pub(crate) struct HostStage {
    client: WebexClient,
    rules: LinkRules,
    deduplicator: Deduplicator,
}

impl HostStage {
    #[must_use]
    pub(crate) const fn new(client: WebexClient, rules: LinkRules, deduplicator: Deduplicator) -> Self {
        Self { client, rules, deduplicator }
    }

    /// Sends `link` to `destination`, unless it was already sent.
    async fn deliver(
        &self,
        message: &Message,
        link: &HostLink,
        destination: &ExpertDestination<'_>,
        trace: &TraceContext,
    ) -> Outcome {
        let deadline = link.expires_at;
        let id = id(message);
        // Only the message id identifies the effect. If the ledger of stage `link` was lost, the same message is published
        // again with another link to the same meeting. The expert may already have a link.
        let mut lease = match self.deduplicator.begin(&effect(&id), id.as_bytes(), deadline).await {
            Begun::Act(lease) => lease,
            Begun::Done => return Outcome::DoneBefore(Batch::default()),
            Begun::Stop(outcome) => return outcome,
        };
        fault::point(Self::NAME, "claimed");
        let noted_before = lease.as_ref().is_some_and(|lease| lease.note().is_some());
        if noted_before {
            let sent = self.client.was_sent(destination, link, trace).await;
            fault::point(Self::NAME, "looked");
            match sent {
                Ok(Some(true)) => return self.delivered(lease, deadline).await,
                Ok(_) => {}
                Err(error) => return error.into_outcome(deadline),
            }
        }
        if let Some(outcome) = self.deduplicator.note(&mut lease, SENDING, deadline).await {
            return outcome;
        }
        fault::point(Self::NAME, "noted");
        let left = Duration::try_from(deadline.timestamp().duration_since(clock::now())).unwrap_or_default();
        let sent = self.client.send(destination, link, trace, left).await;
        fault::point(Self::NAME, "answered");
        match sent {
            Ok(sent) => {
                info!(
                    tracking_id = sent.tracking_id.as_deref().unwrap_or("none"),
                    "host link sent to expert"
                );
                self.delivered(lease, deadline).await
            }
            Err(error) => {
                // Keep the note if the message may have been sent, by this attempt or late by an earlier one: the next
                // attempt then checks before it sends.
                if !error.unknown && !noted_before {
                    Deduplicator::release(lease).await;
                    fault::point(Self::NAME, "released");
                }
                error.into_outcome(deadline)
            }
        }
    }

    async fn delivered(&self, lease: Option<Lease>, deadline: WireTime) -> Outcome {
        let recorded = self.deduplicator.record(lease, DELIVERED, deadline).await;
        fault::point(Self::NAME, "recorded");
        recorded.unwrap_or(Outcome::Done(Batch::default()))
    }
}

impl Stage for HostStage {
    const NAME: &'static str = "host";

    fn identify(&self, message: &Message) -> Identity {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct KnownFields {
            event_id: String,
        }

        let known = decode::from_json::<KnownFields>(&message.body).map(|known| known.event_id).ok();
        let id = known.as_deref().or(message.message_id.as_deref());
        Identity {
            event_id: EventId::of(id, None, &message.body),
            trace: TraceContext::of(&message.headers),
            occurred_at: message.published_at,
        }
    }

    fn effect(&self, message: &Message, _: &Identity) -> String {
        effect(&id(message))
    }

    fn deadline(&self, message: &Message) -> Result<WireTime, Death> {
        let link = read(message, &self.rules)?;
        checked(&link).map(|_| link.expires_at)
    }

    fn bytes(&self, message: &Message) -> usize {
        COPIES * message.body.len()
    }

    async fn handle(&self, message: &Message) -> Outcome {
        let link = match read(message, &self.rules) {
            Ok(link) => link,
            Err(death) => return Outcome::Dead(death),
        };
        let destination = match checked(&link) {
            Ok(destination) => destination,
            Err(death) => return Outcome::Dead(death),
        };
        let trace = TraceContext::of(&message.headers);
        fault::point(Self::NAME, "read");
        self.deliver(message, &link, &destination, &trace).await
    }
}

/// Id of the message; the same for every repeat of an effect.
fn id(message: &Message) -> String {
    message.message_id.clone().unwrap_or_else(|| ids::hash(&message.body).to_string())
}

/// Ledger key for sending the message with this `id`.
fn effect(id: &str) -> String {
    format!("host:{id}")
}

/// Destination of `link`, if the destination is valid and the session has not ended.
fn checked(link: &HostLink) -> Result<ExpertDestination<'_>, Death> {
    let destination = link
        .expert
        .address()
        .map_err(|invalid: Invalid| Death::new(Class::Invalid, invalid.within("expert")))?;
    if link.expires_at.timestamp() <= clock::now() {
        return Err(Death::new(Class::Expired, "the session is over"));
    }
    Ok(destination)
}

fn read(message: &Message, rules: &LinkRules) -> Result<HostLink, Death> {
    parsed(message, rules).map_err(|invalid| Death::new(Class::Invalid, invalid))
}

fn parsed(message: &Message, rules: &LinkRules) -> Result<HostLink, Invalid> {
    // A host link repeats parts of its event, so it is not much larger than an event.
    if message.body.len() > 2 * BODY_BYTES_MAX {
        return Err(Invalid::new(
            "",
            Problem::TooLarge { bytes: message.body.len(), max: 2 * BODY_BYTES_MAX },
        ));
    }
    let link: HostLink = decode::from_json(&message.body)?;
    // An expert must get only links of Instant Connect, because other producers may write to the queue.
    let url = link.address.reveal();
    let safe = url.bytes().all(|b| b.is_ascii_graphic() && !b"()<>[]\"\\`".contains(&b));
    if safe && rules.allow(url) {
        Ok(link)
    } else {
        Err(Invalid::new("url", "expected an Instant Connect link"))
    }
}
