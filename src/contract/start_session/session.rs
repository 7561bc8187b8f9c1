//! The validated session of a start event.

use jiff::{SignedDuration, Timestamp};

use super::{
    Attributes, Digest, Refusal, StartMessage, StartSession, Vertical,
    digest::digest,
    limits::{bytes_of, check, repeated},
    refusal::refusal,
};
use crate::contract::{
    decode::{Invalid, Problem},
    device::{AllowList, Device},
    identity::Identity,
    ids::{self, EventId},
    message::Message,
    outgoing::short_correlation,
    people::{self, AllowedExperts, Channel, Expert, Guest, NumberPrefixes},
    private::Private,
    time::WireTime,
};

/// Configured defaults and permissions for start events.
#[derive(Clone, Debug)]
pub struct SessionRules {
    /// `instant_connect.subject_prefix`.
    pub subject_prefix: String,
    /// `instant_connect.vertical`.
    pub vertical: Vertical,
    /// `instant_connect.host_login`.
    pub host_login: bool,
    /// `instant_connect.link_lifetime`.
    pub link_lifetime: SignedDuration,
    /// `devices.allowed`.
    pub devices: AllowList,
    /// `hosts.allowed`.
    pub experts: AllowedExperts,
    /// The guests that can get a link; `None` if other programs send the links.
    pub guests: Option<GuestRules>,
}

/// The guests that can get a link.
#[derive(Clone, Debug)]
pub struct GuestRules {
    /// `send.allowed_prefixes`.
    pub numbers: NumberPrefixes,
    /// The channels with a sender.
    pub channels: Vec<Channel>,
}

/// A validated start event.
#[derive(Clone, Debug)]
pub struct Session {
    /// The event's id.
    pub event_id: EventId,
    /// The session id as received; use [`crate::contract::private::loggable_id`] for logs.
    pub session_id: Private<String>,
    /// The JWT subject.
    pub subject: String,
    /// The guests: at least one.
    pub guests: Vec<Guest>,
    /// The experts: at least one, each with exactly one destination.
    pub experts: Vec<Expert>,
    /// The devices, all allowed and without duplicates.
    pub devices: Vec<Device>,
    /// The wording of the meeting.
    pub vertical: Vertical,
    /// True if hosts must sign in.
    pub host_login: bool,
    /// When the links become valid.
    pub not_before: Option<WireTime>,
    /// When the links expire: the session's deadline.
    pub expires_at: WireTime,
    /// The event's correlation id, copied into every link message.
    pub correlation_id: Option<Private<String>>,
    /// The AMQP property `correlation_id` of link messages.
    pub correlation: Private<String>,
    /// The event's attributes, copied into every link message.
    pub attributes: Option<Attributes>,
    /// Hash of the event's content. Events with the same content have the same digest.
    pub digest: Digest,
}

impl Session {
    /// Parses and validates the start event in `message` at the time `now`.
    ///
    /// # Errors
    /// As [`StartMessage::session`].
    pub fn read(message: &Message, rules: &SessionRules, now: Timestamp) -> Result<Self, Refusal> {
        StartMessage::open(message).session(rules, now)
    }

    /// Total size of the event data in all its links, in bytes.
    #[must_use]
    pub fn echoed(&self) -> usize {
        let correlation = self.correlation_id.as_ref().map_or(0, |id| id.reveal().len());
        let each = self.session_id.reveal().len() + correlation + bytes_of(self.attributes.as_ref());
        repeated(&self.guests, &self.experts, each)
    }
}

/// The session of `start`, the event in `message`.
pub(super) fn validated(
    mut start: StartSession,
    message: &Message,
    identity: &Identity,
    rules: &SessionRules,
    now: Timestamp,
) -> Result<Session, Refusal> {
    let Identity { event_id, occurred_at, .. } = identity;
    check(&start, now).map_err(|invalid| refusal(invalid, &start, message, *occurred_at))?;
    // Before duplicates are removed, because errors name the position in the event.
    rules.guests.as_ref().map_or(Ok(()), |rules| reachable(&start.guests, rules))?;
    allowed_experts(&start.experts, &rules.experts)?;
    start.guests = people::unique_guests(start.guests);
    start.experts = people::unique_experts(start.experts);
    start.devices = start.devices.map(|devices| allowed_devices(devices, &rules.devices)).transpose()?;
    let digest = digest(&start);
    let expires_at = start.expires_at.unwrap_or_else(|| {
        // Counted from the event's own time or its first attempt, whichever is earlier: waiting must not move the deadline.
        let known_since =
            [message.first_failed_at(), *occurred_at].into_iter().flatten().fold(now, Timestamp::min);
        let from = start.not_before.map_or(known_since, |not_before| not_before.timestamp().max(known_since));
        WireTime::floor(from.saturating_add(rules.link_lifetime).unwrap_or(Timestamp::MAX))
    });
    if expires_at.timestamp() <= now {
        return Err(Refusal::Expired(Invalid::new("expiresAt", Problem::SessionOver)));
    }
    let given = start.correlation_id.as_ref().map(|id| id.reveal().as_str());
    let correlation = short_correlation(given.or(message.correlation_id.as_deref()), event_id.as_str());
    Ok(Session {
        subject: format!("{}{}", rules.subject_prefix, ids::subject(&start.session_id)),
        session_id: start.session_id.into(),
        event_id: event_id.clone(),
        guests: start.guests,
        experts: start.experts,
        devices: start.devices.unwrap_or_default(),
        vertical: start.vertical.unwrap_or(rules.vertical),
        host_login: start.host_login.unwrap_or(rules.host_login),
        not_before: start.not_before,
        expires_at,
        correlation_id: start.correlation_id,
        correlation,
        attributes: start.attributes,
        digest,
    })
}

/// Refuses a guest on a channel without a sender, and one whose number has no allowed prefix.
fn reachable(guests: &[Guest], rules: &GuestRules) -> Result<(), Refusal> {
    for (position, guest) in guests.iter().enumerate() {
        let (field, expected) = if !rules.channels.contains(&guest.channel) {
            ("channel", "expected a channel that this worker can send on (webex_connect)")
        } else if !rules.numbers.allow(&guest.address) {
            ("address", "expected a number that begins with one of send.allowed_prefixes")
        } else {
            continue;
        };
        return Err(Refusal::Invalid(Invalid::new(format!("guests[{position}].{field}"), expected)));
    }
    Ok(())
}

/// Refuses an expert that is not allowed.
fn allowed_experts(experts: &[Expert], allowed: &AllowedExperts) -> Result<(), Refusal> {
    let refused = |(position, expert)| Some((position, allowed.refused_field(expert)?));
    match experts.iter().enumerate().find_map(refused) {
        None => Ok(()),
        Some((position, field)) => {
            let path = format!("experts[{position}].{field}");
            Err(Refusal::Invalid(Invalid::new(path, people::NOT_ALLOWED)))
        }
    }
}

/// Removes duplicate devices. Refuses a device that is not allowed.
fn allowed_devices(devices: Vec<Device>, allowed: &AllowList) -> Result<Vec<Device>, Refusal> {
    let mut unique = Vec::with_capacity(devices.len());
    for (position, device) in devices.into_iter().enumerate() {
        if !allowed.allows(&device) {
            let path = format!("devices[{position}]");
            return Err(Refusal::DeviceNotAllowed(Invalid::new(
                path,
                "expected a device listed in devices.allowed",
            )));
        }
        if !unique.contains(&device) {
            unique.push(device);
        }
    }
    Ok(unique)
}
