//! Link messages: each has the right content, and is repeated only if it may be.

use std::collections::BTreeMap;

use instant_connect_worker::{
    broker::publisher::Publication,
    contract::{
        header,
        ids::Role,
        link::{GUEST_LINK_TYPE, HOST_LINK_TYPE},
    },
    stages,
};
use jiff::Timestamp;
use lapin::types::ShortString;
use serde_json::Value;
use uuid::Uuid;

use super::{Checker, copies::text_header, message::SeenMessage, message_id};
use crate::{
    broker::LINKS,
    events::{ExpectedLink, fingerprint},
    network::{BASE_URL, SimulatedLinks},
};

/// The link messages that the broker stored.
#[derive(Debug, Default)]
pub(super) struct PublishedLinks {
    /// The link of each message, and the message of each link.
    urls: BTreeMap<Uuid, String>,
    carried_by: BTreeMap<String, Uuid>,
    /// Number of times that each message was stored.
    times: BTreeMap<Uuid, u32>,
}

impl PublishedLinks {
    /// Adds the link of a message.
    pub(super) fn insert(&mut self, id: Uuid, url: String) {
        self.urls.insert(id, url);
    }

    /// The link of a message.
    pub(super) fn url(&self, id: &Uuid) -> Option<&str> {
        self.urls.get(id).map(String::as_str)
    }

    /// True if the message was stored.
    pub(super) fn has(&self, id: &Uuid) -> bool {
        self.urls.get(id).is_some_and(|url| self.carried_by.contains_key(url))
    }

    /// Checks that a message always contains the same link, and that no other message contains it.
    fn pair(&mut self, id: Uuid, url: String, name: &str) -> Result<(), String> {
        if *self.urls.entry(id).or_insert_with(|| url.clone()) != url {
            return Err(format!("repeated: {name} contains a different link than before"));
        }
        if *self.carried_by.entry(url).or_insert(id) != id {
            return Err(format!("swapped: {name} contains a link of another message"));
        }
        Ok(())
    }
}

/// A link message as its consumer reads it.
struct LinkMessage<'a> {
    publication: &'a Publication,
    role: Role,
    id: Uuid,
    link: Value,
    /// Name in reports.
    name: String,
}

impl<'a> LinkMessage<'a> {
    fn read(role: Role, publication: &'a Publication) -> Result<Self, String> {
        let (_, id) = message_id(publication);
        let id = id.ok_or("unexpected: a link without an id")?;
        let link: Value = serde_json::from_slice(&publication.body).map_err(|error| error.to_string())?;
        let session = link["sessionId"].as_str().unwrap_or_default();
        let name = format!("{} of {session}", publication.routing_key);
        Ok(Self { publication, role, id, link, name })
    }

    fn text(&self, field: &str) -> &str {
        self.link[field].as_str().unwrap_or_default()
    }

    fn expires_at(&self) -> Option<Timestamp> {
        self.text("expiresAt").parse().ok()
    }

    /// The person or room that the message is for.
    fn recipient(&self) -> String {
        match self.role {
            Role::Guest => self.text("to").to_owned(),
            Role::Host => ["email", "personId", "roomId"]
                .iter()
                .filter_map(|name| self.link["expert"][*name].as_str())
                .collect(),
        }
    }

    /// Checks that the link was made for this session and role. Returns its expiry time.
    fn check_link(&self, links: &BTreeMap<String, SimulatedLinks>) -> Result<i64, String> {
        let name = &self.name;
        let made = self.text("url").strip_prefix(BASE_URL).and_then(|short| links.get(short));
        let made = made.ok_or_else(|| format!("{name} contains a link that was never made"))?;
        if made.role != self.role
            || (self.role == Role::Guest && self.link.to_string().contains("visit/host"))
        {
            return Err(format!("swapped: {name} contains a {} link", made.role.as_str()));
        }
        if made.session != self.text("sessionId") {
            return Err(format!("swapped: {name} contains a link of {}", made.session));
        }
        Ok(made.until)
    }

    /// Checks that the message goes to the recipient of `wanted`.
    fn check_recipient(&self, wanted: &ExpectedLink) -> Result<(), String> {
        let to = self.recipient();
        if (to.as_str(), self.publication.routing_key.as_str()) != (wanted.to.as_str(), wanted.key) {
            return Err(format!("swapped: {} goes to the wrong recipient", self.name));
        }
        Ok(())
    }

    /// Checks the expiry time: that of the link, and of the event if it names one.
    fn check_expiry(&self, event: Option<Timestamp>, link: i64) -> Result<(), String> {
        let (name, until) = (&self.name, self.expires_at());
        if event.is_some() && event != until {
            return Err(format!("the expiry time of {name} differs from its event's"));
        }
        if until.map(Timestamp::as_second) != Some(link) {
            return Err(format!("the expiry time in {name} differs from its link's"));
        }
        Ok(())
    }

    /// Checks that properties and headers match the contract.
    fn check_properties(&self) -> Result<(), String> {
        let kind = if self.role == Role::Guest { GUEST_LINK_TYPE } else { HOST_LINK_TYPE };
        let properties = &self.publication.properties;
        let match_contract = properties.kind().as_ref().map(ShortString::as_str) == Some(kind)
            && *properties.delivery_mode() == Some(2)
            && text_header(self.publication, header::DEDUPLICATION) == Some(self.id.to_string())
            && text_header(self.publication, header::TRACEPARENT).is_some();
        if !match_contract {
            return Err(format!("the properties of {} do not match the contract", self.name));
        }
        Ok(())
    }
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
        let late = until.is_none_or(|until| self.now() > until);
        self.names.insert(fingerprint(&publication.body), name.clone());
        if late { Err(format!("late: {name} is published after its session ended")) } else { Ok(()) }
    }

    pub(super) fn link_stored(
        &mut self,
        links: &BTreeMap<String, SimulatedLinks>,
        role: Role,
        publication: &Publication,
    ) -> Result<(), String> {
        self.count(if role == Role::Guest { "guest links" } else { "host links" });
        let message = LinkMessage::read(role, publication)?;
        let (id, name, session) = (message.id, &message.name, message.text("sessionId"));
        let made_until = message.check_link(links)?;
        let found = self.events.iter().enumerate().find(|(_, event)| event.session == session);
        let (number, event) = found.ok_or_else(|| format!("unexpected: {name}"))?;
        let wanted = event.links.iter().find(|wanted| wanted.message_id == id && wanted.role == role);
        let wanted = wanted.cloned().ok_or_else(|| format!("unexpected: {name} has a wrong id"))?;
        let has_devices = !event.devices.is_empty();
        message.check_recipient(&wanted)?;
        message.check_expiry(event.expires_at, made_until)?;
        message.check_properties()?;
        self.links.pair(id, message.text("url").to_owned(), name)?;
        self.repeated(id, name)?;
        if has_devices && !self.called_devices(number) {
            return Err(format!("{name} is published before its devices were called"));
        }
        let consumed = SeenMessage {
            name: name.clone(),
            stage: stages::HOST.name,
            key: wanted.to,
            event: number,
            room: wanted.room,
            deadline: message.expires_at(),
            ..SeenMessage::default()
        };
        let consumed = match role {
            Role::Host => Some(consumed),
            Role::Guest => self.guest_link(wanted.key, consumed),
        };
        if let Some(consumed) = consumed {
            self.seen.entry(id).or_insert(consumed).inputs += 1;
        }
        Ok(())
    }

    /// Checks repeats: a link message may be repeated only if an ack or a confirm may have been lost, or if the
    /// ledger may not know of the publish. An event that is sent twice is no reason.
    fn repeated(&mut self, id: Uuid, name: &str) -> Result<(), String> {
        let of: Vec<_> = (self.seen.values())
            .filter(|seen| seen.is_event())
            .filter(|seen| self.events[seen.event].links.iter().any(|wanted| wanted.message_id == id))
            .collect();
        let excused = |seen: &&SeenMessage| seen.excuses - seen.excused_alive + seen.unrecorded;
        let allowed = 1 + of.iter().map(excused).sum::<u32>();
        let times = self.links.times.entry(id).or_default();
        *times += 1;
        let often = *times > allowed;
        if *times > 1 {
            self.count("repeated links");
        }
        if often { Err(format!("repeated: {name} is published more often than allowed")) } else { Ok(()) }
    }
}
