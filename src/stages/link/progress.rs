//! The ledger value of an event: its links, and which of their messages the broker has confirmed.

use std::collections::BTreeSet;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::warn;
use uuid::Uuid;

use super::LINK;
use crate::{
    contract::{decode, outgoing::Outgoing, start_session::Session, time::WireTime},
    fault,
    instant_connect::Links,
    ledger::Lease,
    outcome::{Class, Death, Learn, Outcome},
    stages::Deduplicator,
};

/// Ledger value of an event: a note while links are made and published, a result when the broker has confirmed all.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LinkProgress {
    pub(super) expires_at: Option<WireTime>,
    #[serde(flatten)]
    pub(super) links: Links,
    /// `message_id`s of the messages that the broker has confirmed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    published: BTreeSet<Uuid>,
}

impl LinkProgress {
    /// True if there is a link for every person.
    pub(super) fn is_complete(&self, session: &Session) -> bool {
        (self.links.hosts.len(), self.links.guests.len()) == (session.experts.len(), session.guests.len())
    }

    /// The value, as JSON.
    pub(super) fn written(&self) -> Result<Vec<u8>, Outcome> {
        serde_json::to_vec(self).map_err(|_| unwritable())
    }

    /// One message for each link that the broker has not confirmed. The types keep guest links and host links apart; see
    /// [`Outgoing`].
    pub(super) fn messages(&self, session: &Session) -> Result<Vec<Outgoing>, Outcome> {
        let guests = self.links.guests.iter().enumerate();
        let guests = guests.map(|(position, link)| Outgoing::guest(session, position, link.clone()));
        let hosts = self.links.hosts.iter().enumerate();
        let hosts = hosts.map(|(position, link)| Outgoing::host(session, position, link.clone()));
        let all = guests.chain(hosts).collect::<Result<Vec<_>, _>>().map_err(|_| {
            Outcome::Dead(Death::new(Class::Internal, "a link message could not be written as JSON"))
        })?;
        Ok(all.into_iter().filter(|outgoing| !self.published.contains(&outgoing.message_id)).collect())
    }
}

/// The links of an event while their messages are published.
pub(super) struct Publishing {
    pub(super) deduplicator: Deduplicator,
    pub(super) lease: Option<Lease>,
    pub(super) made: LinkProgress,
    pub(super) deadline: WireTime,
}

impl Publishing {
    /// Records the event if the broker has confirmed all its messages; otherwise notes the confirmed ones.
    async fn record(&mut self) {
        let Ok(record) = self.made.written() else { return };
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
pub(super) fn recall(session: &mut Session, note: &[u8], now: Timestamp) -> Option<LinkProgress> {
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

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use serde_json::{Value, json};

    use super::*;
    use crate::contract::{
        message::Message,
        people::AllowedExperts,
        start_session::{SessionRules, Vertical},
    };

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
            experts: AllowedExperts::default(),
            guests: None,
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
            let again = recall(&mut session, &made.written().unwrap(), Timestamp::now()).unwrap();
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
            made.messages(&session).unwrap().iter().map(|one| one.message_id).collect::<Vec<_>>()
        };
        let all = ids(&made);
        assert_eq!(all.len(), 3);
        made.published.insert(all[1]);
        let mut noted: LinkProgress = decode::from_json(&made.written().unwrap()).unwrap();
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
