//! Stage `host`: sends a host link to the expert as a Webex message.

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tracing::info;

use super::{
    AcceptedJob, JobContext, Read, SESSION_OVER, Stage,
    deduplicator::{Begun, Deduplicator},
    read_link,
};
use crate::{
    contract::{
        decode::{self, Invalid},
        identity::Identity,
        ids::{self, EventId},
        link::{HOSTS, HostLink},
        message::Message,
        people::ExpertDestination,
        stage::{LatencyDef, StageDef, UpstreamDef},
        time::WireTime,
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

/// Stage `host`, as data.
pub static HOST: StageDef = StageDef {
    name: "host",
    queue: &HOSTS,
    feeds: &[],
    routes: &[],
    upstream: UpstreamDef { label: "webex_messages", title: "Webex Messages", key: "messages" },
    latency: LatencyDef {
        name: "link_to_expert_seconds",
        help: "Time from publishing a host link (AMQP timestamp in whole seconds, which adds up to one second) until \
               Webex has the expert's message, including delay queues.",
    },
};

/// Stage `host`.
#[derive(Debug)]
pub struct HostStage {
    client: WebexClient,
    rules: LinkRules,
    deduplicator: Deduplicator,
}

impl HostStage {
    #[must_use]
    pub const fn new(client: WebexClient, rules: LinkRules, deduplicator: Deduplicator) -> Self {
        Self { client, rules, deduplicator }
    }

    /// Sends `link` to `destination`, unless it was already sent.
    async fn deliver(
        &self,
        link: &HostLink,
        destination: &ExpertDestination<'_>,
        context: &JobContext,
    ) -> Outcome {
        let JobContext { trace, deadline, effect, digest } = context;
        // Only the message id identifies the effect. If the ledger of stage `link` was lost, the same message is published
        // again with another link to the same meeting. The expert may already have a link.
        let mut lease = match self.deduplicator.begin(effect, *digest).await {
            Begun::Act(lease) => lease,
            Begun::Done => return Outcome::DoneBefore(Batch::default()),
            Begun::Stop(outcome) => return outcome,
        };
        fault::point(HOST.name, "claimed");
        let noted_before = lease.as_ref().is_some_and(|lease| lease.note().is_some());
        if noted_before {
            let sent = self.client.was_sent(destination, link, trace).await;
            fault::point(HOST.name, "looked");
            match sent {
                Ok(Some(true)) => return self.delivered(lease, *deadline).await,
                Ok(_) => {}
                Err(error) => return error.into_outcome(),
            }
        }
        if let Some(outcome) = self.deduplicator.note(&mut lease, SENDING, *deadline).await {
            return outcome;
        }
        fault::point(HOST.name, "noted");
        let left = Duration::try_from(deadline.timestamp().duration_since(self.deduplicator.clock().now()))
            .unwrap_or_default();
        let sent = self.client.send(destination, link, trace, left).await;
        fault::point(HOST.name, "answered");
        match sent {
            Ok(sent) => {
                info!(
                    tracking_id = sent.tracking_id.as_deref().unwrap_or("none"),
                    "host link sent to expert"
                );
                self.delivered(lease, *deadline).await
            }
            Err(error) => {
                // Keep the note if the message may have been sent, by this attempt or late by an earlier one: the next
                // attempt then checks before it sends.
                if !error.unknown && !noted_before {
                    Deduplicator::release(lease).await;
                    fault::point(HOST.name, "released");
                }
                error.into_outcome()
            }
        }
    }

    async fn delivered(&self, lease: Option<Lease>, deadline: WireTime) -> Outcome {
        let recorded = self.deduplicator.record(lease, DELIVERED, deadline).await;
        fault::point(HOST.name, "recorded");
        recorded.unwrap_or(Outcome::Done(Batch::default()))
    }
}

impl Stage for HostStage {
    type Job = HostLink;

    const DEF: &'static StageDef = &HOST;

    fn bytes_max(&self, message: &Message) -> usize {
        COPIES * message.body.len()
    }

    fn read(&self, message: &Message) -> Read<HostLink> {
        let link: Result<HostLink, _> = read_link(message);
        let known = match &link {
            Ok(link) => Some(link.event_id.clone()),
            Err(_) => event_id(&message.body),
        };
        let id = id(message);
        let digest = Sha256::digest(&id).into();
        Read {
            identity: Identity {
                event_id: EventId::of(
                    known.as_deref().or(message.message_id.as_deref()),
                    None,
                    &message.body,
                ),
                ..Identity::without_body(message)
            },
            effect: format!("host:{id}"),
            bytes: self.bytes_max(message),
            job: link
                .map_err(|invalid| Death::new(Class::Invalid, invalid))
                .and_then(|link| checked(link, &self.rules, self.deduplicator.clock().now()))
                .map(|link| AcceptedJob { deadline: link.expires_at, digest, job: link }),
        }
    }

    fn has_new_token(&self) -> bool {
        self.client.has_new_token()
    }

    async fn act(&self, link: HostLink, context: &mut JobContext) -> Outcome {
        let destination = match destination(&link) {
            Ok(destination) => destination,
            Err(death) => return Outcome::Dead(death),
        };
        fault::point(HOST.name, "read");
        self.deliver(&link, &destination, context).await
    }
}

/// Id of the message; the same for every repeat of an effect.
fn id(message: &Message) -> String {
    message.message_id.clone().unwrap_or_else(|| ids::hash(&message.body).to_string())
}

/// The event id in the body of a host link that is invalid otherwise.
fn event_id(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct KnownFields {
        event_id: String,
    }

    decode::from_json::<KnownFields>(body).map(|known| known.event_id).ok()
}

fn destination(link: &HostLink) -> Result<ExpertDestination<'_>, Death> {
    let invalid = |invalid: Invalid| Death::new(Class::Invalid, invalid.within("expert"));
    link.expert.address().map_err(invalid)
}

/// Refuses a link that is not Instant Connect's, a link without a valid destination, and one whose session has ended.
fn checked(link: HostLink, rules: &LinkRules, now: Timestamp) -> Result<HostLink, Death> {
    // An expert must get only links of Instant Connect, because other producers may write to the queue.
    let url = link.address.reveal();
    let safe = url.bytes().all(|b| b.is_ascii_graphic() && !b"()<>[]\"\\`".contains(&b));
    if !safe || !rules.allow(url) {
        return Err(Death::new(Class::Invalid, Invalid::new("url", "expected an Instant Connect link")));
    }
    destination(&link)?;
    if link.expires_at.timestamp() <= now {
        return Err(Death::new(Class::Expired, SESSION_OVER));
    }
    Ok(link)
}
