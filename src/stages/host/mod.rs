//! Stage `host`: sends a host link to the expert as a Webex message.
//!
//! - `note`: how often it may have been sent

mod note;

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tracing::info;

use self::note::HostNote;
use super::{
    AcceptedJob, JobContext, Read, SESSION_OVER, Stage,
    deduplicator::{Begun, Deduplicator},
    read_link,
};
use crate::{
    contract::{
        decode::{self, Invalid},
        header,
        identity::Identity,
        ids::{self, EventId},
        link::{HOSTS, HostLink},
        message::Message,
        people::{AllowedExperts, ExpertDestination, NOT_ALLOWED},
        stage::{LatencyDef, StageDef, UpstreamDef},
        time::WireTime,
    },
    fault,
    instant_connect::response::LinkRules,
    ledger::Lease,
    outcome::{Batch, Cause, Class, Death, Outcome},
    webex_messages::WebexClient,
};

/// Ledger result of a message that was sent.
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

/// The links that are sent, and the experts that get them.
#[derive(Clone, Debug)]
pub struct HostRules {
    /// The links of Instant Connect.
    pub links: LinkRules,
    /// `hosts.allowed`.
    pub experts: AllowedExperts,
}

/// Stage `host`.
#[derive(Debug)]
pub struct HostStage {
    client: WebexClient,
    rules: HostRules,
    deduplicator: Deduplicator,
}

impl HostStage {
    #[must_use]
    pub const fn new(client: WebexClient, rules: HostRules, deduplicator: Deduplicator) -> Self {
        Self { client, rules, deduplicator }
    }

    /// Sends the link to `destination`, unless it was already sent, or may have been sent too often.
    async fn deliver(
        &self,
        HostJob { link, replayed_at, tried }: &HostJob,
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
        let note = lease.as_ref().and_then(Lease::note);
        let claimed = note.map(<[u8]>::to_vec);
        let mut noted = HostNote::of(note, *replayed_at);
        // A send before the last replay counts here, too. Without the ledger, an earlier attempt may have sent it.
        if HostNote::of(note, None).may_be_sent() || (lease.is_none() && *tried) {
            let sent = self.client.was_sent(destination, link, trace).await;
            fault::point(HOST.name, "looked");
            match sent {
                Ok(Some(true)) => return self.delivered(lease, *deadline).await,
                Ok(Some(false)) => noted = noted.not_seen(),
                Ok(None) => {
                    let death = noted.too_often();
                    if let Some(death) = death.or_else(|| uncounted(lease.as_ref(), destination, false)) {
                        return Outcome::Dead(death);
                    }
                }
                Err(error) => return error.into_outcome(),
            }
        }
        // Waits for the ledger. A note that was given up and written late would count as a message that may have been sent.
        if let Some(outcome) =
            self.deduplicator.note_part(&mut lease, &noted.again().bytes(), *deadline).await
        {
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
                // Keep the note if the message may have been sent: the next attempt then checks before it sends. An attempt that
                // sent nothing does not count, so the earlier note returns, or one that counts nothing: a write is repeated until
                // the ledger works, and a release is not.
                let sent_nothing = !error.unknown;
                if !sent_nothing && let Some(death) = uncounted(lease.as_ref(), destination, true) {
                    return Outcome::Dead(death);
                }
                if sent_nothing {
                    let before = claimed.unwrap_or_else(|| noted.bytes());
                    _ = self.deduplicator.note_part(&mut lease, &before, *deadline).await;
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

/// A host link to send.
#[derive(Debug)]
pub struct HostJob {
    link: HostLink,
    /// The last replay of the message, if it was a dead letter.
    replayed_at: Option<Timestamp>,
    /// An earlier attempt may have sent it: its call failed, or it had no outcome.
    tried: bool,
}

impl Stage for HostStage {
    type Job = HostJob;

    const DEF: &'static StageDef = &HOST;

    fn bytes_max(&self, message: &Message) -> usize {
        COPIES * message.body.len()
    }

    fn read(&self, message: &Message) -> Read<HostJob> {
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
                .map(|link| AcceptedJob {
                    deadline: link.expires_at,
                    digest,
                    job: HostJob {
                        link,
                        replayed_at: message.replayed_at(),
                        tried: is_after_failed_call(message) || message.deliveries() > 0,
                    },
                }),
        }
    }

    fn has_new_token(&self) -> bool {
        self.client.has_new_token()
    }

    async fn act(&self, job: HostJob, context: &mut JobContext) -> Outcome {
        let destination = match destination(&job.link) {
            Ok(destination) => destination,
            Err(death) => return Outcome::Dead(death),
        };
        fault::point(HOST.name, "read");
        self.deliver(&job, &destination, context).await
    }
}

/// The death of a message that may have been sent while no ledger counts how often (`ledger.on_failure` = `continue`). Webex does not show
/// a bot the messages of a space, so a message to a space dies when the result of its send is unknown (`just_sent`). A message to a person
/// is looked up first, and dies only if Webex does not show that person's messages either.
fn uncounted(lease: Option<&Lease>, destination: &ExpertDestination<'_>, just_sent: bool) -> Option<Death> {
    let is_space = matches!(destination, ExpertDestination::Room(_));
    let reason = "the message may have been sent, and the ledger that counts its repeats is unavailable \
                  (ledger.on_failure=continue); a replay sends it again";
    (lease.is_none() && is_space == just_sent).then(|| Death::new(Class::Exhausted, reason))
}

/// True for the copy of a message that waited in a delay queue because a call had no response, a malformed one, or one that says "later".
fn is_after_failed_call(message: &Message) -> bool {
    let reason = message.header(header::RETRY_REASON);
    [Cause::Unavailable, Cause::Malformed].iter().any(|cause| reason == Some(cause.as_str()))
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

/// Refuses a link that is not Instant Connect's, a link without a valid and allowed destination, and one whose session has ended.
fn checked(link: HostLink, rules: &HostRules, now: Timestamp) -> Result<HostLink, Death> {
    // An expert must get only links of Instant Connect, because other producers may write to the queue.
    let url = link.address.reveal();
    let safe = url.bytes().all(|b| b.is_ascii_graphic() && !b"()<>[]\"\\`".contains(&b));
    if !safe || !rules.links.allow(url) {
        return Err(Death::new(Class::Invalid, Invalid::new("url", "expected an Instant Connect link")));
    }
    destination(&link)?;
    if let Some(field) = rules.experts.refused_field(&link.expert) {
        let path = format!("expert.{field}");
        return Err(Death::new(Class::Invalid, Invalid::new(path, NOT_ALLOWED)));
    }
    if link.expires_at.timestamp() <= now {
        return Err(Death::new(Class::Expired, SESSION_OVER));
    }
    Ok(link)
}
