//! The rules for every message that is published.

use std::{collections::BTreeMap, time::Duration};

use instant_connect_worker::{
    broker::publisher::Publication,
    contract::{
        header,
        ids::Role,
        link::{GUEST_LINK_TYPE, HOST_LINK_TYPE},
    },
    outcome::Class,
};
use jiff::{SignedDuration, Timestamp};
use lapin::types::{AMQPValue, ShortString};
use serde_json::Value;
use uuid::Uuid;

use super::{
    answers::{BASE_URL, SimulatedLinks},
    broker::{GUESTS, HOSTS, LINKS, SESSIONS},
    checker::{Checker, SeenLinks},
    events::ExpectedResult,
};

/// Longest processing time without a disturbance.
const LATENCY_MAX: Duration = Duration::from_secs(7);

fn text_header(publication: &Publication, name: &str) -> Option<String> {
    let headers = publication.properties.headers().as_ref()?;
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(str::to_owned),
        AMQPValue::LongLongInt(number) => Some(number.to_string()),
        _ => None,
    }
}

fn message_id(publication: &Publication) -> Option<Uuid> {
    publication.properties.message_id().as_ref().and_then(|id| Uuid::try_parse(id.as_str()).ok())
}

/// The person or room that a link message is for.
fn recipient(role: Role, link: &Value) -> String {
    match role {
        Role::Guest => link["to"].as_str().unwrap_or_default().to_owned(),
        Role::Host => {
            ["email", "personId", "roomId"].iter().filter_map(|name| link["expert"][*name].as_str()).collect()
        }
    }
}

/// True if the properties and headers of a link message match the contract.
fn has_link_properties(publication: &Publication, kind: &str, id: Uuid) -> bool {
    let properties = &publication.properties;
    properties.kind().as_ref().map(ShortString::as_str) == Some(kind)
        && *properties.delivery_mode() == Some(2)
        && text_header(publication, header::DEDUPLICATION) == Some(id.to_string())
        && text_header(publication, header::TRACEPARENT).is_some()
}

impl Checker {
    /// Checks a message that the publisher received.
    pub(crate) fn published(&mut self, publication: &Publication) -> Result<(), String> {
        self.count("publishes");
        if publication.exchange != LINKS {
            return Ok(());
        }
        let link: Value = serde_json::from_slice(&publication.body).unwrap_or_default();
        let until = link["expiresAt"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
        let name =
            format!("{} of {}", publication.routing_key, link["sessionId"].as_str().unwrap_or("something"));
        let late = until.is_none_or(|until| self.rules.clock.now() > until);
        self.set_name(&publication.body, name.clone());
        if late { Err(format!("late: {name} is published after its session ended")) } else { Ok(()) }
    }

    /// Checks a message that the broker stored. `delay` is set for a delay queue.
    pub(crate) fn stored(
        &mut self,
        links: &BTreeMap<String, SimulatedLinks>,
        queue: &str,
        delay: Option<Duration>,
        publication: &Publication,
    ) -> Result<(), String> {
        match queue {
            GUESTS => self.link_stored(links, Role::Guest, GUEST_LINK_TYPE, publication),
            HOSTS => self.link_stored(links, Role::Host, HOST_LINK_TYPE, publication),
            _ => self.copy_stored(queue, delay, publication),
        }
    }

    fn link_stored(
        &mut self,
        links: &BTreeMap<String, SimulatedLinks>,
        role: Role,
        kind: &str,
        publication: &Publication,
    ) -> Result<(), String> {
        self.count(if role == Role::Guest { "guest links" } else { "host links" });
        let id = message_id(publication).ok_or("unexpected: a link without an id")?;
        let link: Value = serde_json::from_slice(&publication.body).map_err(|error| error.to_string())?;
        let text = |field: &str| link[field].as_str().unwrap_or_default().to_owned();
        let (session, url) = (text("sessionId"), text("url"));
        let name = format!("{} of {session}", publication.routing_key);
        let made = url.strip_prefix(BASE_URL).and_then(|short| links.get(short));
        let made = made.ok_or_else(|| format!("{name} contains a link that was never made"))?;
        if made.role != role || (role == Role::Guest && link.to_string().contains("visit/host")) {
            return Err(format!("swapped: {name} contains a {} link", made.role.as_str()));
        }
        if made.session != session {
            return Err(format!("swapped: {name} contains a link of {}", made.session));
        }
        let found = self.events.iter().enumerate().find(|(_, event)| event.session == session);
        let (number, event) = found.ok_or_else(|| format!("unexpected: {name}"))?;
        let wanted = event.links.iter().find(|wanted| wanted.message_id == id && wanted.role == role);
        let wanted = wanted.cloned().ok_or_else(|| format!("unexpected: {name} has a wrong id"))?;
        let to = recipient(role, &link);
        if (to.as_str(), publication.routing_key.as_str()) != (wanted.to.as_str(), wanted.key) {
            return Err(format!("swapped: {name} goes to the wrong recipient"));
        }
        let until = text("expiresAt").parse::<Timestamp>().ok();
        if event.expires_at.is_some() && event.expires_at != until {
            return Err(format!("the expiry time of {name} differs from its event's"));
        }
        if until.map(Timestamp::as_second) != Some(made.until) {
            return Err(format!("the expiry time in {name} differs from its link's"));
        }
        if !has_link_properties(publication, kind, id) {
            return Err(format!("the properties of {name} do not match the contract"));
        }
        self.paired(id, url, &name)?;
        self.repeated(id, &name)?;
        if !self.events[number].devices.is_empty() && !self.called_devices(number) {
            return Err(format!("{name} is published before its devices were called"));
        }
        if role == Role::Host {
            let seen = self.seen.entry(id).or_insert_with(|| SeenLinks {
                name,
                queue: HOSTS,
                key: to,
                event: number,
                room: wanted.room,
                deadline: until,
                ..SeenLinks::default()
            });
            seen.inputs += 1;
        }
        Ok(())
    }

    /// Checks that a message always contains the same link, and that no other message contains it.
    fn paired(&mut self, id: Uuid, url: String, name: &str) -> Result<(), String> {
        if *self.urls.entry(id).or_insert_with(|| url.clone()) != url {
            return Err(format!("repeated: {name} contains a different link than before"));
        }
        if *self.carried_by.entry(url).or_insert(id) != id {
            return Err(format!("swapped: {name} contains a link of another message"));
        }
        Ok(())
    }

    fn called_devices(&self, number: usize) -> bool {
        self.seen
            .values()
            .any(|seen| seen.queue == SESSIONS && seen.event == number && seen.devices_until.is_some())
    }

    /// Checks repeats: a link message may be repeated only if an ack or a confirm may have been lost, or if the
    /// ledger may not know of the publish. An event that is sent twice is no reason.
    fn repeated(&mut self, id: Uuid, name: &str) -> Result<(), String> {
        let of: Vec<_> = (self.seen.values())
            .filter(|seen| seen.queue == SESSIONS)
            .filter(|seen| self.events[seen.event].links.iter().any(|wanted| wanted.message_id == id))
            .collect();
        let allowed = 1 + of.iter().map(|seen| seen.excuses + seen.unrecorded).sum::<u32>();
        let times = self.times.entry(id).or_default();
        *times += 1;
        let often = *times > allowed;
        if *times > 1 {
            self.count("repeated links");
        }
        if often { Err(format!("repeated: {name} is published more often than allowed")) } else { Ok(()) }
    }

    fn copy_stored(
        &mut self,
        queue: &str,
        delay: Option<Duration>,
        publication: &Publication,
    ) -> Result<(), String> {
        self.count(if delay.is_some() { "delayed" } else { "dead" });
        let of = if queue.starts_with(HOSTS) { HOSTS } else { SESSIONS };
        let text_id = publication.properties.message_id().as_ref().map(ShortString::as_str);
        let id = Self::id_of(of, text_id, &publication.body);
        let result = self.copy_follows(queue, delay, publication, of, id);
        self.decided(&id);
        result
    }

    fn copy_follows(
        &mut self,
        queue: &str,
        delay: Option<Duration>,
        publication: &Publication,
        of: &'static str,
        id: Uuid,
    ) -> Result<(), String> {
        let (done, undisturbed) = (self.confirmed_all(&id), self.undisturbed(&id));
        let rules = self.rules.clone();
        let seen = self.seen.get_mut(&id).ok_or_else(|| format!("unexpected: a copy in {queue}"))?;
        if seen.queue != of {
            return Err(format!("unexpected: {} in {queue}", seen.name));
        }
        seen.copies += 1;
        if seen.copies > seen.acks + seen.open + seen.excuses {
            return Err(format!("unexpected: too many copies of {}", seen.name));
        }
        if done && seen.open == 1 {
            return Err(format!(
                "{} is copied to {queue} after all its messages were published and confirmed",
                seen.name
            ));
        }
        let attempts = text_header(publication, header::ATTEMPTS).and_then(|text| text.parse::<u32>().ok());
        let most = seen.attempts_max() + u32::from(delay.is_none());
        if attempts.is_some_and(|attempts| attempts > most) {
            return Err(format!(
                "{} has {attempts:?} counted attempts, but at most {} failures of its own",
                seen.name,
                seen.attempts_max()
            ));
        }
        if let Some(delay) = delay {
            let back = self.rules.clock.now() + SignedDuration::try_from(delay).unwrap_or_default();
            let slack = SignedDuration::try_from(rules.first_delay + LATENCY_MAX).unwrap_or_default();
            let not_before = text_header(publication, header::NOT_BEFORE);
            let not_before = not_before.and_then(|at| at.parse::<Timestamp>().ok());
            // A copy that is already due was decided for an earlier delivery and waited for the broker.
            let prompt = undisturbed && not_before.is_none_or(|at| at > self.rules.clock.now());
            let late = |deadline: Timestamp| {
                not_before.is_some_and(|at| at >= deadline) || (prompt && back > deadline + slack)
            };
            seen.not_before = not_before;
            if seen.deadline.is_some_and(late) {
                return Err(format!("late: {} is delayed beyond its session's end", seen.name));
            }
            return Ok(());
        }
        let class = text_header(publication, header::DEAD_CLASS).unwrap_or_default();
        let reason = text_header(publication, header::DEAD_REASON).unwrap_or_default();
        let class: Class =
            class.parse().map_err(|_| format!("a dead letter of an unknown class: {class}"))?;
        seen.dead.push(class);
        let name = seen.name.clone();
        if self.may_die(&id, class) {
            Ok(())
        } else {
            Err(format!("{name} must not be dead-lettered as {class}: {reason}"))
        }
    }

    /// Returns true if a message may be dead-lettered as `class`, given its history.
    fn may_die(&self, id: &Uuid, class: Class) -> bool {
        let Some(seen) = self.seen.get(id) else { return false };
        let event = &self.events[seen.event];
        let (now, rules) = (self.rules.clock.now(), &self.rules);
        let after = |wait: Duration| now + SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
        let backoff = Duration::from_secs_f64(1.2 * 3f64.powi(seen.failures.min(8).cast_signed()).min(600.0));
        let next = after(backoff.max(self.longest_wait) + Duration::from_secs(2));
        let first = event.sent.iter().min().copied().unwrap_or_default();
        let first = rules.begin + SignedDuration::try_from(first).unwrap_or_default();
        let since = |begin: Timestamp| Duration::try_from(next.duration_since(begin)).unwrap_or_default();
        let shares_its_id = self.events.iter().filter(|other| other.id == event.id).count() > 1;
        let event_of_stage = seen.queue == SESSIONS;
        match class {
            Class::Invalid => {
                event_of_stage
                    && (event.expected == ExpectedResult::Invalid
                        || shares_its_id
                        || seen.deadline.is_some_and(|deadline| now >= deadline))
            }
            Class::DeviceNotAllowed => event_of_stage && event.expected == ExpectedResult::DeviceNotAllowed,
            Class::Rejected => seen.refused,
            Class::Expired => match seen.deadline {
                _ if event.expected == ExpectedResult::Invalid => event_of_stage,
                Some(deadline) => next >= deadline,
                None => since(first) >= rules.lifetime,
            },
            // With so few attempts, their delays stay below `retry.total`.
            Class::Exhausted => seen.attempts_max() >= rules.attempts,
            Class::Unroutable => event_of_stage && seen.unroutable,
            // Deaths during the first three deliveries look like broken connections.
            Class::Poison => {
                // The worker takes events of one id for one.
                let alike = |other: &&SeenLinks| {
                    let same_id = event_of_stage && self.events[other.event].id == event.id;
                    other.queue == seen.queue && (same_id || other.key == seen.key)
                };
                let deaths: u32 = self.seen.values().filter(alike).map(|seen| seen.deaths).sum();
                deaths + self.tries_in_doubt >= rules.deliveries_max.saturating_sub(3).max(2)
            }
            Class::Internal => false,
        }
    }
}
