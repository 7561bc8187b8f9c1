//! Stage `link`: makes the links for a start event.

use std::collections::BTreeSet;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::{debug, warn};
use uuid::Uuid;

use super::{
    AcceptedJob, JobContext, Read, Stage,
    deduplicator::{Begun, Deduplicator},
};
use crate::{
    contract::{
        decode,
        link::{GUESTS, ROUTES},
        message::Message,
        outgoing::Outgoing,
        private::loggable_id,
        stage::{LatencyDef, StageDef, UpstreamDef},
        start_session::{Refusal, SESSIONS, Session, SessionRules, StartMessage},
        time::WireTime,
        trace::TraceContext,
    },
    fault,
    instant_connect::{InstantConnectClient, Links},
    ledger::Lease,
    outcome::{Batch, Class, Death, Learn, Outcome},
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
        let outgoing = messages(session, &made)?;
        let (deduplicator, deadline) = (self.deduplicator.clone(), session.expires_at);
        let batch = Batch::followed_by(outgoing, Publishing { deduplicator, lease, made, deadline });
        Ok(if made_before { Outcome::DoneBefore(batch) } else { Outcome::Done(batch) })
    }

    /// Makes the links of `session` that are missing in `made`, with as many calls as needed. The result of each call is
    /// noted, so that the next attempt continues from there. Only the first call contains the devices, so they are not
    /// called again.
    async fn make(
        &self,
        session: &Session,
        mut lease: Option<Lease>,
        mut made: LinkProgress,
        trace: &TraceContext,
    ) -> Result<(Option<Lease>, LinkProgress), Outcome> {
        made.expires_at = Some(session.expires_at);
        let first = written(&made)?;
        if let Some(outcome) = self.deduplicator.note_if_failing(&mut lease, &first, session.expires_at).await
        {
            return Err(outcome);
        }
        while !made.is_complete(session) {
            let noted = made.links.count() > 0;
            made.links = match self.client.more(session, made.links, trace).await {
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
                self.deduplicator.note_part(&mut lease, &written(&made)?, session.expires_at).await
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

/// Ledger value of an event: a note while links are made and published, a result when the broker has confirmed all.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LinkProgress {
    expires_at: Option<WireTime>,
    #[serde(flatten)]
    links: Links,
    /// `message_id`s of the messages that the broker has confirmed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    published: BTreeSet<Uuid>,
}

impl LinkProgress {
    /// True if there is a link for every person.
    fn is_complete(&self, session: &Session) -> bool {
        (self.links.hosts.len(), self.links.guests.len()) == (session.experts.len(), session.guests.len())
    }
}

fn written(made: &LinkProgress) -> Result<Vec<u8>, Outcome> {
    serde_json::to_vec(made).map_err(|_| unwritable())
}

/// The links of an event while their messages are published.
struct Publishing {
    deduplicator: Deduplicator,
    lease: Option<Lease>,
    made: LinkProgress,
    deadline: WireTime,
}

impl Publishing {
    /// Records the event if the broker has confirmed all its messages; otherwise notes the confirmed ones.
    async fn record(&mut self) {
        let Ok(record) = written(&self.made) else { return };
        let failed = if self.made.published.len() == self.made.links.count() {
            let failed = self.deduplicator.record(self.lease.take(), &record, self.deadline).await;
            // Not after a note, because the number of notes depends on timing.
            fault::point(LINK.name, "recorded");
            failed
        } else {
            self.deduplicator.note_part(&mut self.lease, &record, self.deadline).await
        };
        if failed.is_some() {
            warn!(
                "could not record published links in the ledger; if their event is delivered again, the same links are published again"
            );
        }
    }
}

impl Learn for Publishing {
    fn confirmed(&mut self, message_ids: Vec<Uuid>) -> BoxFuture<'_, ()> {
        self.made.published.extend(message_ids);
        Box::pin(self.record())
    }
}

/// The links in the note of an earlier attempt: all of `session`'s links, or the first of them. The remaining links get
/// the same expiry time. `None` if the noted links expired before all were made; then all links are made again.
fn recall(session: &mut Session, note: &[u8], now: Timestamp) -> Option<LinkProgress> {
    let made = decode::from_json::<LinkProgress>(note).ok()?;
    let (expires_at, links) = (made.expires_at?, &made.links);
    let first = links.guests.is_empty() || links.hosts.len() == session.experts.len();
    let some =
        first && links.hosts.len() <= session.experts.len() && links.guests.len() <= session.guests.len();
    let lasts = made.is_complete(session) || expires_at.timestamp() > now;
    (some && lasts).then(|| {
        session.expires_at = expires_at;
        made
    })
}

fn unwritable() -> Outcome {
    Outcome::Dead(Death::new(Class::Internal, "the event's ledger value could not be written as JSON"))
}

fn refused(refusal: &Refusal) -> Death {
    let class = match refusal {
        Refusal::Invalid(_) => Class::Invalid,
        Refusal::Expired(_) => Class::Expired,
        Refusal::DeviceNotAllowed(_) => Class::DeviceNotAllowed,
    };
    Death::new(class, refusal)
}

/// One message for each link that the broker has not confirmed. The types keep guest links and host links apart; see
/// [`Outgoing`].
fn messages(session: &Session, made: &LinkProgress) -> Result<Vec<Outgoing>, Outcome> {
    let guests = made.links.guests.iter().enumerate();
    let guests = guests.map(|(position, link)| Outgoing::guest(session, position, link.clone()));
    let hosts = made.links.hosts.iter().enumerate();
    let hosts = hosts.map(|(position, link)| Outgoing::host(session, position, link.clone()));
    let all = guests.chain(hosts).collect::<Result<Vec<_>, _>>().map_err(|_| {
        Outcome::Dead(Death::new(Class::Internal, "a link message could not be written as JSON"))
    })?;
    Ok(all.into_iter().filter(|outgoing| !made.published.contains(&outgoing.message_id)).collect())
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use serde_json::{Value, json};

    use super::*;
    use crate::contract::start_session::Vertical;

    fn session(experts: usize, guests: usize) -> Session {
        let people = |count, person: fn(usize) -> Value| (0..count).map(person).collect::<Vec<_>>();
        let event = json!({
            "sessionId": "visit-1",
            "experts": people(experts, |of| json!({"email": format!("expert-{of}@example.com")})),
            "guests": people(guests, |of| json!({"channel": "sms", "address": format!("+34600111{of:03}")})),
        });
        let rules = SessionRules {
            subject_prefix: String::new(),
            vertical: Vertical::Hc,
            host_login: true,
            link_lifetime: SignedDuration::from_hours(2),
            devices: serde_json::from_value(json!([])).unwrap(),
        };
        let message = Message { body: event.to_string().into_bytes(), ..Message::default() };
        Session::read(&message, &rules, Timestamp::now()).unwrap()
    }

    fn note(hosts: usize, guests: usize, ends_in: SignedDuration) -> (WireTime, Vec<u8>) {
        let links = |count| vec![json!({"url": "https://instant.webex.com/visit/ckmNR7I"}); count];
        let ends_at = WireTime::floor(Timestamp::now() + ends_in);
        let note = json!({"expiresAt": ends_at, "hosts": links(hosts), "guests": links(guests)});
        (ends_at, note.to_string().into_bytes())
    }

    #[test]
    fn attempt_continues_from_the_noted_links() {
        let later = SignedDuration::from_mins(1);
        for (people, links) in [
            ((2, 30), (2, 23)),
            ((30, 1), (25, 0)),
            ((1, 60), (1, 49)),
            ((25, 1), (25, 0)),
            ((2, 30), (2, 30)),
        ] {
            let mut session = session(people.0, people.1);
            let (ends_at, note) = note(links.0, links.1, later);
            let made = recall(&mut session, &note, Timestamp::now()).unwrap();
            assert_eq!((made.links.hosts.len(), made.links.guests.len()), links);
            assert_eq!(session.expires_at, ends_at, "all links expire together");
            assert_eq!(made.is_complete(&session), links == people);
            let again = recall(&mut session, &written(&made).unwrap(), Timestamp::now()).unwrap();
            assert_eq!(again.links.count(), made.links.count(), "the value can be read again");
        }
    }

    #[test]
    fn expired_or_foreign_links_are_made_again() {
        let (later, ended) = (SignedDuration::from_mins(1), SignedDuration::ZERO);
        for (people, made, ends_in) in [
            ((2, 30), (2, 23), ended),
            ((2, 30), (1, 24), later),
            ((2, 30), (3, 22), later),
            ((2, 30), (2, 31), later),
        ] {
            let mut session = session(people.0, people.1);
            let until = session.expires_at;
            assert!(
                recall(&mut session, &note(made.0, made.1, ends_in).1, Timestamp::now()).is_none(),
                "{made:?}"
            );
            assert_eq!(session.expires_at, until);
        }
        assert!(recall(&mut session(2, 30), b"sending", Timestamp::now()).is_none());
    }

    #[test]
    fn confirmed_messages_are_not_published_again() {
        let mut session = session(1, 2);
        let mut made =
            recall(&mut session, &note(1, 2, SignedDuration::from_mins(1)).1, Timestamp::now()).unwrap();
        let ids = |made: &LinkProgress| {
            messages(&session, made).unwrap().iter().map(|one| one.message_id).collect::<Vec<_>>()
        };
        let all = ids(&made);
        assert_eq!(all.len(), 3);
        made.published.insert(all[1]);
        let mut noted: LinkProgress = decode::from_json(&written(&made).unwrap()).unwrap();
        assert_eq!(ids(&noted), [all[0], all[2]]);
        noted.published.extend([all[0], all[2]]);
        assert!(ids(&noted).is_empty());
    }

    #[test]
    fn complete_links_are_kept_after_they_expire() {
        let mut session = session(1, 2);
        let (ended_at, note) = note(1, 2, SignedDuration::ZERO);
        assert!(recall(&mut session, &note, Timestamp::now()).unwrap().is_complete(&session));
        assert_eq!(session.expires_at, ended_at, "the event then ends as expired");
    }
}
