//! Stage `link`: a start event becomes links.

use std::collections::BTreeSet;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};
use uuid::Uuid;

use super::{
    Stage,
    deduplicator::{Begun, Deduplicator},
};
use crate::{
    clock,
    contract::{
        decode,
        link::Outgoing,
        message::Message,
        private::loggable_id,
        start_session::{self, Identity, Refusal, Session, SessionRules},
        time::WireTime,
    },
    fault,
    instant_connect::{InstantConnectClient, Links},
    ledger::Lease,
    outcome::{Batch, Class, Death, Learn, Outcome},
};

/// How often the bytes of an event or a link are held at once: as they came, as read, as written, on their way to the broker.
const COPIES: usize = 4;
/// What one link takes beside what it repeats of its event: its message, properties, and place among those not confirmed.
const LINK_BYTES: usize = 8 * 1024;
/// Up to here a rough count of an event's bytes will do.
const SMALL: usize = 256 * 1024;

/// Stage `link`.
#[derive(Debug)]
pub(crate) struct LinkStage {
    client: InstantConnectClient,
    rules: SessionRules,
    deduplicator: Deduplicator,
}

impl LinkStage {
    /// The stage, with the client it calls, the rules for events, and the ledger of the links that were made.
    #[must_use]
    pub(crate) const fn new(
        client: InstantConnectClient,
        rules: SessionRules,
        deduplicator: Deduplicator,
    ) -> Self {
        Self { client, rules, deduplicator }
    }

    fn read(&self, message: &Message) -> Result<Session, Death> {
        Session::read(message, &self.rules, clock::now()).map_err(|refusal| refused(&refusal))
    }

    /// The messages with the links of `session`: those that were made before, else new ones, noted before anybody sees
    /// them. Which of them the broker has is recorded when it confirms them, and those are not published again.
    async fn links(&self, session: &mut Session) -> Result<Outcome, Outcome> {
        let key = effect(session.event_id.as_str());
        let lease = match self.deduplicator.begin(&key, &session.digest, session.expires_at).await {
            Begun::Act(lease) => lease,
            Begun::Done => return Ok(Outcome::DoneBefore(Batch::default())),
            Begun::Otherwise(outcome) => return Err(outcome),
        };
        fault::point(Self::NAME, "claimed");
        let noted = lease.as_ref().and_then(Lease::note).and_then(|note| recall(session, note));
        let made_before = noted.as_ref().is_some_and(|made| made.is_complete(session));
        let (lease, made) = self.make(session, lease, noted.unwrap_or_default()).await?;
        let outgoing = messages(session, &made)?;
        let (deduplicator, deadline) = (self.deduplicator.clone(), session.expires_at);
        let batch = Batch::followed_by(outgoing, Publishing { deduplicator, lease, made, deadline });
        Ok(if made_before { Outcome::DoneBefore(batch) } else { Outcome::Done(batch) })
    }

    /// All links of `session`, by as many calls as they take after `made`. What each brings is noted, so that the next
    /// attempt goes on from there: the devices are called with the first, and are not called again for the others.
    async fn make(
        &self,
        session: &Session,
        mut lease: Option<Lease>,
        mut made: LinkProgress,
    ) -> Result<(Option<Lease>, LinkProgress), Outcome> {
        made.expires_at = Some(session.expires_at);
        let first = written(&made)?;
        if let Some(outcome) = self.deduplicator.note_if_failing(&mut lease, &first, session.expires_at).await
        {
            return Err(outcome);
        }
        while !made.is_complete(session) {
            let noted = made.links.count() > 0;
            made.links = match self.client.more(session, made.links).await {
                Ok(links) => links,
                Err(error) => {
                    // A note outlives the lease, and says where to go on.
                    if !noted {
                        Deduplicator::release(lease).await;
                        fault::point(Self::NAME, "released");
                    }
                    return Err(error.into_outcome(session.expires_at));
                }
            };
            if let Some(outcome) =
                self.deduplicator.note_part(&mut lease, &written(&made)?, session.expires_at).await
            {
                return Err(outcome);
            }
            fault::point(Self::NAME, "noted");
        }
        Ok((lease, made))
    }
}

impl Stage for LinkStage {
    const NAME: &'static str = "link";

    fn identify(&self, message: &Message) -> Identity {
        start_session::identify(message)
    }

    fn effect(&self, _: &Message, identity: &Identity) -> String {
        effect(identity.event_id.as_str())
    }

    fn deadline(&self, message: &Message) -> Result<WireTime, Death> {
        self.read(message).map(|session| session.expires_at)
    }

    fn bytes(&self, message: &Message) -> usize {
        let body = message.body.len();
        // Each person is a JSON object, and no link repeats more than twice the event: most are small without a closer look.
        let people = message.body.split(|byte| *byte == b'{').count();
        let most =
            people.saturating_mul(LINK_BYTES.saturating_add(2 * COPIES * body)).saturating_add(COPIES * body);
        if most <= SMALL {
            return most;
        }
        let links = self.read(message).map_or(0, |session| {
            let people = session.guests.len() + session.experts.len();
            people * LINK_BYTES + COPIES * session.echoed()
        });
        links + COPIES * body
    }

    async fn handle(&self, message: &Message) -> Outcome {
        let mut session = match self.read(message) {
            Ok(session) => session,
            Err(death) => return Outcome::Dead(death),
        };
        debug!(
            event_id = %loggable_id(session.event_id.as_str()), trace_id = session.trace.trace_id(),
            session = %loggable_id(session.session_id.reveal()), guests = session.guests.len(),
            experts = session.experts.len(), devices = session.devices.len(), "start event taken"
        );
        fault::point(Self::NAME, "read");
        self.links(&mut session).await.unwrap_or_else(|otherwise| otherwise)
    }
}

/// The name in the ledger of the links of the event called `event_id`.
fn effect(event_id: &str) -> String {
    format!("link:{event_id}")
}

/// What the ledger keeps of an event: noted while links are made and published, recorded once the broker has them all.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LinkProgress {
    expires_at: Option<WireTime>,
    #[serde(flatten)]
    links: Links,
    /// The `message_id`s of the messages that the broker has.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    published: BTreeSet<Uuid>,
}

impl LinkProgress {
    /// Whether there is a link for everybody.
    fn is_complete(&self, session: &Session) -> bool {
        (self.links.hosts.len(), self.links.guests.len()) == (session.experts.len(), session.guests.len())
    }
}

fn written(made: &LinkProgress) -> Result<Vec<u8>, Outcome> {
    serde_json::to_vec(made).map_err(|_| unusable())
}

/// The links of an event while they are published.
struct Publishing {
    deduplicator: Deduplicator,
    lease: Option<Lease>,
    made: LinkProgress,
    deadline: WireTime,
}

impl Publishing {
    /// Records that the broker has all messages of the event, or notes those that it has.
    async fn record(&mut self) {
        let Ok(record) = written(&self.made) else { return };
        let failed = if self.made.published.len() == self.made.links.count() {
            let failed = self.deduplicator.record(self.lease.take(), &record, self.deadline).await;
            // Not after a note: how many there are is a matter of time.
            fault::point(LinkStage::NAME, "recorded");
            failed
        } else {
            self.deduplicator.note_part(&mut self.lease, &record, self.deadline).await
        };
        if failed.is_some() {
            warn!("could not record that links are published; a repeat of their event publishes them again");
        }
    }
}

impl Learn for Publishing {
    fn confirmed(&mut self, message_ids: Vec<Uuid>) -> BoxFuture<'_, ()> {
        self.made.published.extend(message_ids);
        Box::pin(self.record())
    }
}

/// The links that an earlier attempt got and noted for `session`, all or the first of them; the others will end when
/// they do. None if these have ended before there were all: then all are made again.
fn recall(session: &mut Session, note: &[u8]) -> Option<LinkProgress> {
    let made = decode::from_json::<LinkProgress>(note).ok()?;
    let (expires_at, links) = (made.expires_at?, &made.links);
    let first = links.guests.is_empty() || links.hosts.len() == session.experts.len();
    let some =
        first && links.hosts.len() <= session.experts.len() && links.guests.len() <= session.guests.len();
    let lasts = made.is_complete(session) || expires_at.timestamp() > clock::now();
    (some && lasts).then(|| {
        session.expires_at = expires_at;
        made
    })
}

fn unusable() -> Outcome {
    Outcome::Dead(Death::new(Class::Internal, "the links in the ledger are not those of this event"))
}

fn refused(refusal: &Refusal) -> Death {
    let class = match refusal {
        Refusal::Invalid(_) => Class::Invalid,
        Refusal::Expired(_) => Class::Expired,
        Refusal::DeviceNotAllowed(_) => Class::DeviceNotAllowed,
    };
    Death::new(class, refusal)
}

/// One message for each link that the broker does not have yet. Guests' links go to guests and hosts' to hosts by type: see
/// [`Outgoing`].
fn messages(session: &Session, made: &LinkProgress) -> Result<Vec<Outgoing>, Outcome> {
    let guests = made.links.guests.iter().enumerate();
    let guests = guests.map(|(position, address)| Outgoing::guest(session, position, address.clone()));
    let hosts = made.links.hosts.iter().enumerate();
    let hosts = hosts.map(|(position, address)| Outgoing::host(session, position, address.clone()));
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
        Session::read(&message, &rules, clock::now()).unwrap()
    }

    fn note(hosts: usize, guests: usize, ends_in: SignedDuration) -> (WireTime, Vec<u8>) {
        let links = |count| vec![json!({"url": "https://instant.webex.com/visit/ckmNR7I"}); count];
        let ends_at = WireTime::floor(clock::now() + ends_in);
        let note = json!({"expiresAt": ends_at, "hosts": links(hosts), "guests": links(guests)});
        (ends_at, note.to_string().into_bytes())
    }

    #[test]
    fn an_attempt_goes_on_from_the_links_of_the_one_before() {
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
            let made = recall(&mut session, &note).unwrap();
            assert_eq!((made.links.hosts.len(), made.links.guests.len()), links);
            assert_eq!(session.expires_at, ends_at, "all links end together");
            assert_eq!(made.is_complete(&session), links == people);
            let again = recall(&mut session, &written(&made).unwrap()).unwrap();
            assert_eq!(again.links.count(), made.links.count(), "as it was written");
        }
    }

    #[test]
    fn links_that_ended_or_are_not_of_this_event_are_made_again() {
        let (later, ended) = (SignedDuration::from_mins(1), SignedDuration::ZERO);
        for (people, made, ends_in) in [
            ((2, 30), (2, 23), ended),
            ((2, 30), (1, 24), later),
            ((2, 30), (3, 22), later),
            ((2, 30), (2, 31), later),
        ] {
            let mut session = session(people.0, people.1);
            let until = session.expires_at;
            assert!(recall(&mut session, &note(made.0, made.1, ends_in).1).is_none(), "{made:?}");
            assert_eq!(session.expires_at, until);
        }
        assert!(recall(&mut session(2, 30), b"sending").is_none());
    }

    #[test]
    fn messages_that_the_broker_has_are_not_published_again() {
        let mut session = session(1, 2);
        let mut made = recall(&mut session, &note(1, 2, SignedDuration::from_mins(1)).1).unwrap();
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
    fn links_that_ended_after_all_were_made_are_not_made_again() {
        let mut session = session(1, 2);
        let (ended_at, note) = note(1, 2, SignedDuration::ZERO);
        assert!(recall(&mut session, &note).unwrap().is_complete(&session));
        assert_eq!(session.expires_at, ended_at, "so that they expire");
    }
}
