//! Stage `link`: a start event becomes links.

use serde::{Deserialize, Serialize};
use tracing::debug;

use super::{
    Stage,
    book::{Book, Turn},
};
use crate::{
    clock,
    contract::{
        decode,
        link::Outgoing,
        message::Message,
        private::loggable_id,
        start_session::{self, Identity, Refusal, Rules, Session},
        time::Instant,
    },
    fault,
    instant_connect::{Client, Links},
    ledger::Lease,
    outcome::{Class, Death, Outcome},
};

/// Stage `link`.
#[derive(Debug)]
pub struct Link {
    client: Client,
    rules: Rules,
    book: Book,
}

impl Link {
    /// The stage, with the client it calls, the rules for events, and the ledger of the links that were made.
    #[must_use]
    pub const fn new(client: Client, rules: Rules, book: Book) -> Self {
        Self { client, rules, book }
    }

    /// The messages with the links of `session`: those that were made before, else new ones, recorded before anybody
    /// sees them.
    async fn links(&self, session: &mut Session, body: &[u8]) -> Result<Outcome, Outcome> {
        let key = format!("link:{}", session.event_id.as_str());
        let lease = match self.book.turn(&key, body, session.expires_at).await {
            Turn::Act(lease) => lease,
            Turn::Done(recorded) => {
                let links = recall(session, &recorded)?;
                return Ok(Outcome::DoneBefore(messages(session, links)?.into()));
            }
            Turn::Otherwise(outcome) => return Err(outcome),
        };
        fault::point(Self::NAME, "claimed");
        let (lease, links) = self.make(session, lease).await?;
        let record = written(session, &links)?;
        let recorded = self.book.record(lease, &record, session.expires_at).await;
        fault::point(Self::NAME, "recorded");
        match recorded {
            None => Ok(Outcome::Done(messages(session, links)?.into())),
            Some(outcome) => Err(outcome),
        }
    }

    /// All links of `session`, by as many calls as they take. What each but the last brings is noted, so that the next
    /// attempt goes on from there: the devices are called with the first, and are not called again for the others.
    async fn make(
        &self,
        session: &mut Session,
        mut lease: Option<Lease>,
    ) -> Result<(Option<Lease>, Links), Outcome> {
        let note = lease.as_ref().and_then(Lease::note);
        let mut links = note.and_then(|note| begun(session, note)).unwrap_or_default();
        loop {
            let noted = links.count() > 0;
            links = match self.client.more(session, links).await {
                Ok(links) => links,
                Err(error) => {
                    // A note outlives the lease, and says where to go on.
                    if !noted {
                        Book::release(lease).await;
                        fault::point(Self::NAME, "released");
                    }
                    return Err(error.into_outcome(session.expires_at));
                }
            };
            if links.count() == session.experts.len() + session.guests.len() {
                return Ok((lease, links));
            }
            let note = written(session, &links)?;
            if let Some(outcome) = self.book.note_part(&mut lease, &note, session.expires_at).await {
                return Err(outcome);
            }
            fault::point(Self::NAME, "noted");
        }
    }
}

impl Stage for Link {
    const NAME: &'static str = "link";

    fn identify(&self, message: &Message) -> Identity {
        start_session::identify(message)
    }

    async fn handle(&self, message: &Message) -> Outcome {
        let mut session = match Session::read(message, &self.rules, clock::now()) {
            Ok(session) => session,
            Err(refusal) => return Outcome::Dead(refused(&refusal)),
        };
        debug!(
            event_id = %loggable_id(session.event_id.as_str()), trace_id = session.trace.trace_id(),
            session = %loggable_id(session.session_id.reveal()), guests = session.guests.len(),
            experts = session.experts.len(), devices = session.devices.len(), "start event taken"
        );
        fault::point(Self::NAME, "read");
        self.links(&mut session, &message.body).await.unwrap_or_else(|otherwise| otherwise)
    }
}

/// What the ledger keeps of an event.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Made<L> {
    expires_at: Instant,
    #[serde(flatten)]
    links: L,
}

fn written(session: &Session, links: &Links) -> Result<Vec<u8>, Outcome> {
    serde_json::to_vec(&Made { expires_at: session.expires_at, links }).map_err(|_| unusable())
}

/// The links that `session` got before, which end when they did then.
fn recall(session: &mut Session, recorded: &[u8]) -> Result<Links, Outcome> {
    let made: Made<Links> = decode::from_json(recorded).map_err(|_| unusable())?;
    if (made.links.hosts.len(), made.links.guests.len()) != (session.experts.len(), session.guests.len()) {
        return Err(unusable());
    }
    session.expires_at = made.expires_at;
    Ok(made.links)
}

/// The first links of `session`, which an earlier attempt got and noted; the others will end when they do. None where
/// these have ended: then all are made anew.
fn begun(session: &mut Session, note: &[u8]) -> Option<Links> {
    let Made { expires_at, links } = decode::from_json::<Made<Links>>(note).ok()?;
    let first = links.guests.is_empty() || links.hosts.len() == session.experts.len();
    let some =
        first && links.hosts.len() <= session.experts.len() && links.guests.len() < session.guests.len();
    (some && expires_at.timestamp() > clock::now()).then(|| {
        session.expires_at = expires_at;
        links
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

/// One message for each link. Guests' links go to guests and hosts' to hosts by type: see [`Outgoing`].
fn messages(session: &Session, links: Links) -> Result<Vec<Outgoing>, Outcome> {
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
    guests.chain(hosts).collect::<Result<_, _>>().map_err(|_| {
        Outcome::Dead(Death::new(Class::Internal, "a link message could not be written as JSON"))
    })
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use serde_json::{Value, json};

    use super::*;
    use crate::{contract::start_session::Vertical, instant_connect::request::LINKS_MAX};

    fn session(experts: usize, guests: usize) -> Session {
        let people = |count, person: Value| vec![person; count];
        let event = json!({
            "sessionId": "visit-1",
            "experts": people(experts, json!({"email": "winnifred@example.com"})),
            "guests": people(guests, json!({"channel": "sms", "address": "+34600111222"})),
        });
        let rules = Rules {
            vertical: Vertical::Hc,
            host_login: true,
            link_lifetime: SignedDuration::from_hours(2),
            devices: serde_json::from_value(json!([])).unwrap(),
        };
        let message = Message { body: event.to_string().into_bytes(), ..Message::default() };
        Session::read(&message, &rules, clock::now()).unwrap()
    }

    fn note(hosts: usize, guests: usize, ends_in: SignedDuration) -> (Instant, Vec<u8>) {
        let links = |count| vec![json!({"url": "https://instant.webex.com/visit/ckmNR7I"}); count];
        let ends_at = Instant::floor(clock::now() + ends_in);
        let note = json!({"expiresAt": ends_at, "hosts": links(hosts), "guests": links(guests)});
        (ends_at, note.to_string().into_bytes())
    }

    #[test]
    fn an_attempt_goes_on_from_the_links_of_the_one_before() {
        let later = SignedDuration::from_mins(1);
        for (people, made) in [((2, 30), (2, 23)), ((30, 1), (25, 0)), ((1, 60), (1, 49)), ((25, 1), (25, 0))]
        {
            let mut session = session(people.0, people.1);
            let (ends_at, note) = note(made.0, made.1, later);
            let links = begun(&mut session, &note).unwrap();
            assert_eq!((links.hosts.len(), links.guests.len()), made);
            assert_eq!(session.expires_at, ends_at, "all links end together");
            let written = written(&session, &links).unwrap();
            assert_eq!(begun(&mut session, &written).unwrap().count() % LINKS_MAX, 0, "as it was written");
        }
    }

    #[test]
    fn links_that_ended_or_are_not_of_this_event_are_made_anew() {
        let (later, ended) = (SignedDuration::from_mins(1), SignedDuration::ZERO);
        for (people, made, ends_in) in [
            ((2, 30), (2, 23), ended),
            ((2, 30), (1, 24), later),
            ((2, 30), (3, 22), later),
            ((2, 30), (2, 30), later),
            ((2, 30), (2, 31), later),
        ] {
            let mut session = session(people.0, people.1);
            let until = session.expires_at;
            assert!(begun(&mut session, &note(made.0, made.1, ends_in).1).is_none(), "{made:?}");
            assert_eq!(session.expires_at, until);
        }
        assert!(begun(&mut session(2, 30), b"sending").is_none());
    }
}
