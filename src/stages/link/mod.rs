//! Stage `link`: makes the links for a start event.
//!
//! - `progress`: the ledger value of an event, until the broker has confirmed all its messages

mod progress;

use sha2::{Digest, Sha256};
use tracing::debug;

use self::progress::{LinkProgress, Publishing, recall};
use super::{
    AcceptedJob, JobContext, Read, Stage,
    deduplicator::{Begun, Deduplicator},
};
use crate::{
    contract::{
        link::{GUESTS, ROUTES},
        message::Message,
        private::loggable_id,
        stage::{LatencyDef, StageDef, UpstreamDef},
        start_session::{Refusal, SESSIONS, Session, SessionRules, StartMessage},
        trace::TraceContext,
    },
    fault,
    instant_connect::InstantConnectClient,
    ledger::Lease,
    outcome::{Batch, Class, Death, Outcome},
};

/// Copies of an event's or link's bytes in memory at the same time: received, parsed, serialised, being published.
const COPIES: usize = 4;
/// Memory of one link without the parts that it repeats of its event: message, properties, entry of the pending confirm.
const LINK_BYTES: usize = 8 * 1024;

/// Stage `link`, as data.
pub static LINK: StageDef = StageDef {
    name: "link",
    queue: &SESSIONS,
    feeds: &[&GUESTS],
    routes: &ROUTES,
    upstream: UpstreamDef { label: "instant_connect", title: "Instant Connect", key: "instant-connect" },
    latency: LatencyDef {
        name: "event_to_link_seconds",
        help: "Time from the event to the confirm of all its links, including delay queues. The event's time is its \
               CloudEvent time, else the AMQP timestamp (whole seconds, which adds up to one second), else its first \
               delivery.",
    },
};

/// Stage `link`.
#[derive(Debug)]
pub struct LinkStage {
    client: InstantConnectClient,
    rules: SessionRules,
    deduplicator: Deduplicator,
}

impl LinkStage {
    #[must_use]
    pub const fn new(client: InstantConnectClient, rules: SessionRules, deduplicator: Deduplicator) -> Self {
        Self { client, rules, deduplicator }
    }

    /// The messages with the links of `session`. Existing links are used again; new links are noted in the ledger before
    /// they are published. Messages that the broker has confirmed are recorded and not published again.
    async fn links(&self, session: &mut Session, context: &mut JobContext) -> Result<Outcome, Outcome> {
        let lease = match self.deduplicator.begin(&context.effect, context.digest).await {
            Begun::Act(lease) => lease,
            Begun::Done => return Ok(Outcome::DoneBefore(Batch::default())),
            Begun::Stop(outcome) => return Err(outcome),
        };
        fault::point(LINK.name, "claimed");
        let now = self.deduplicator.clock().now();
        let noted = lease.as_ref().and_then(Lease::note).and_then(|note| recall(session, note, now));
        // The links of an earlier attempt keep their expiry time.
        context.deadline = session.expires_at;
        let made_before = noted.as_ref().is_some_and(|made| made.is_complete(session));
        let (lease, made) = self.make(session, lease, noted.unwrap_or_default(), &context.trace).await?;
        let outgoing = made.messages(session)?;
        let (deduplicator, deadline) = (self.deduplicator.clone(), session.expires_at);
        let batch = Batch::followed_by(outgoing, Publishing { deduplicator, lease, made, deadline });
        Ok(if made_before { Outcome::DoneBefore(batch) } else { Outcome::Done(batch) })
    }

    /// Makes the links of `session` that are missing in `made`, with as many
    /// [calls](crate::instant_connect::links_call::LinksCall) as needed. The result of each call is noted, so that the
    /// next attempt continues from there. Only the first call contains the devices. It is made again, with them, if its response is
    /// lost: Instant Connect may not have called them, and a room without its session is worse than a second call.
    async fn make(
        &self,
        session: &Session,
        mut lease: Option<Lease>,
        mut made: LinkProgress,
        trace: &TraceContext,
    ) -> Result<(Option<Lease>, LinkProgress), Outcome> {
        made.expires_at = Some(session.expires_at);
        let first = made.written()?;
        if let Some(outcome) = self.deduplicator.note_if_failing(&mut lease, &first, session.expires_at).await
        {
            return Err(outcome);
        }
        while !made.is_complete(session) {
            let noted = made.links.count() > 0;
            made.links = match self.client.next_call(session, made.links, trace).await {
                Ok(links) => links,
                Err(error) => {
                    // A note outlives the lease, so that the next attempt can continue.
                    if !noted {
                        Deduplicator::release(lease).await;
                        fault::point(LINK.name, "released");
                    }
                    return Err(error.into_outcome());
                }
            };
            if let Some(outcome) =
                self.deduplicator.note_part(&mut lease, &made.written()?, session.expires_at).await
            {
                return Err(outcome);
            }
            fault::point(LINK.name, "noted");
        }
        Ok((lease, made))
    }
}

impl Stage for LinkStage {
    type Job = Session;

    const DEF: &'static StageDef = &LINK;

    fn bytes_max(&self, message: &Message) -> usize {
        let body = message.body.len();
        // Each person is a JSON object, and no link repeats more than twice the event.
        let people = message.body.split(|byte| *byte == b'{').count();
        people.saturating_mul(LINK_BYTES.saturating_add(2 * COPIES * body)).saturating_add(COPIES * body)
    }

    fn read(&self, message: &Message) -> Read<Session> {
        let start = StartMessage::open(message);
        let session = start.session(&self.rules, self.deduplicator.clock().now());
        let links = session.as_ref().map_or(0, |session| {
            let people = session.guests.len() + session.experts.len();
            people * LINK_BYTES + COPIES * session.echoed()
        });
        Read {
            effect: effect(start.identity.event_id.as_str()),
            identity: start.identity,
            bytes: links + COPIES * message.body.len(),
            job: session.map(accepted).map_err(|refusal| refused(&refusal)),
        }
    }

    fn has_new_token(&self) -> bool {
        self.client.has_new_token()
    }

    async fn act(&self, mut session: Session, context: &mut JobContext) -> Outcome {
        debug!(
            session = %loggable_id(session.session_id.reveal()), guests = session.guests.len(),
            experts = session.experts.len(), devices = session.devices.len(), "processing start event"
        );
        fault::point(LINK.name, "read");
        self.links(&mut session, context).await.unwrap_or_else(|outcome| outcome)
    }
}

fn accepted(session: Session) -> AcceptedJob<Session> {
    // Hashed twice: entries of earlier releases have this fingerprint, and any other would make their events invalid.
    let digest = Sha256::digest(session.digest).into();
    AcceptedJob { deadline: session.expires_at, digest, job: session }
}

/// Ledger key for the links of the event with this id.
fn effect(event_id: &str) -> String {
    format!("link:{event_id}")
}

fn refused(refusal: &Refusal) -> Death {
    let class = match refusal {
        Refusal::Invalid(_) => Class::Invalid,
        Refusal::Expired(_) => Class::Expired,
        Refusal::DeviceNotAllowed(_) => Class::DeviceNotAllowed,
    };
    Death::new(class, refusal)
}
