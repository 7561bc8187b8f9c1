//! The links that go out. A guest's and a host's link are different types from the answer of Instant Connect to
//! the routing key, and nothing turns one into the other.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    decode,
    ids::Role,
    people::{Channel, Expert, Name, PhoneNumber},
    private::Private,
    start_session::{Attributes, Session},
    time::WireTime,
};

/// Where a meeting opens: the whole URL, and for a short link its two parts, which templates of `WhatsApp`
/// messages need (`url` is `baseUrl` and `short`, concatenated).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeetingLink {
    /// The whole link.
    pub url: Private<String>,
    /// What all short links begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The short link's own part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short: Option<Private<String>>,
}

/// Opens the meeting for a guest. Made by [`crate::instant_connect`] alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct GuestLinkUrl(pub(crate) MeetingLink);

/// Opens the meeting for a host. Made by [`crate::instant_connect`] alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct HostLinkUrl(pub(crate) MeetingLink);

impl HostLinkUrl {
    /// The whole link, for the expert it is meant for.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.url.reveal()
    }
}

impl GuestLinkUrl {
    /// The whole link, for the guest it is meant for.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.url.reveal()
    }
}

/// Tells a sender of text messages which link to send to whom (`video.guest-link.v1`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Guest link, version 1 (video.guest-link.v1)")]
pub struct GuestLink {
    /// The id of the start event.
    pub event_id: String,
    /// As in the start event.
    pub session_id: Private<String>,
    /// How the guest is reached.
    pub channel: Channel,
    /// The guest's number.
    pub to: PhoneNumber,
    /// What the guest is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Private<String>>,
    /// The language for the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// The link.
    #[serde(flatten)]
    pub address: GuestLinkUrl,
    /// The link opens from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<WireTime>,
    /// The link opens until here.
    pub expires_at: WireTime,
    /// As in the start event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Private<String>>,
    /// As in the start event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
}

/// Tells stage `host`, or another consumer of `host.webex`, which link to give to whom (`video.host-link.v1`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Host link, version 1 (video.host-link.v1)")]
pub struct HostLink {
    /// The id of the start event.
    pub event_id: String,
    /// As in the start event.
    pub session_id: Private<String>,
    /// Who gets the link, as in the start event.
    #[serde(deserialize_with = "decode::object")]
    pub expert: Expert,
    /// The names of those guests who have one.
    pub guests: Vec<Private<String>>,
    /// The link.
    #[serde(flatten)]
    pub address: HostLinkUrl,
    /// The link opens from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<WireTime>,
    /// The link opens until here.
    pub expires_at: WireTime,
    /// As in the start event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Private<String>>,
    /// As in the start event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
}

/// The property `type` of a guest link.
pub const GUEST_LINK_TYPE: &str = "video.guest-link.v1";
/// The property `type` of a host link.
pub const HOST_LINK_TYPE: &str = "video.host-link.v1";
/// The routing key of host links.
pub const HOST_ROUTING_KEY: &str = "host.webex";

/// Whom a link message is for, as far as everybody may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// A guest, through a sender of this channel.
    Guest(Channel),
    /// An expert, through Webex.
    Host,
}

impl Recipient {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Guest(Channel::Sms), Self::Guest(Channel::Whatsapp), Self::Host];

    /// `guest` or `host`.
    #[must_use]
    pub const fn role(self) -> &'static str {
        match self {
            Self::Guest(_) => "guest",
            Self::Host => "host",
        }
    }

    /// `sms`, `whatsapp` or `webex`.
    #[must_use]
    pub fn channel(self) -> &'static str {
        match self {
            Self::Guest(channel) => channel.as_str(),
            Self::Host => "webex",
        }
    }

    /// The routing key of its link.
    #[must_use]
    pub const fn routing_key(self) -> &'static str {
        match self {
            Self::Guest(channel) => channel.routing_key(),
            Self::Host => HOST_ROUTING_KEY,
        }
    }
}

/// A link message, ready for the exchange of links. Its key, type and id follow from the link it was made of.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Whom it is for: its routing key.
    pub recipient: Recipient,
    /// The property `type`.
    pub kind: &'static str,
    /// The property `message_id`: the same at every repeat.
    pub message_id: Uuid,
    /// The property `correlation_id`, at most 255 bytes.
    pub correlation_id: Private<String>,
    /// JSON.
    pub body: Private<Vec<u8>>,
    /// When the session is over: the message must not go out after that.
    pub deadline: WireTime,
}

impl Outgoing {
    /// The message for the guest at `position` of `session`.
    ///
    /// # Errors
    /// None that is known: the link is made of text alone; a caller treats one as a defect.
    pub fn guest(
        session: &Session,
        position: usize,
        address: GuestLinkUrl,
    ) -> Result<Self, serde_json::Error> {
        let guest = &session.guests[position];
        let link = GuestLink {
            event_id: session.event_id.as_str().to_owned(),
            session_id: session.session_id.clone(),
            channel: guest.channel,
            to: guest.address.clone(),
            name: guest.name.as_ref().map(Name::private),
            locale: guest.locale.as_ref().map(|locale| locale.as_str().to_owned()),
            address,
            not_before: session.not_before,
            expires_at: session.expires_at,
            correlation_id: session.correlation_id.clone(),
            attributes: session.attributes.clone(),
        };
        let body = serde_json::to_vec(&link)?;
        let recipient = Recipient::Guest(guest.channel);
        Ok(Self::new(session, Role::Guest, position, recipient, GUEST_LINK_TYPE, body))
    }

    /// The message for the expert at `position` of `session`.
    ///
    /// # Errors
    /// As [`Outgoing::guest`].
    pub fn host(session: &Session, position: usize, address: HostLinkUrl) -> Result<Self, serde_json::Error> {
        let link = HostLink {
            event_id: session.event_id.as_str().to_owned(),
            session_id: session.session_id.clone(),
            expert: session.experts[position].clone(),
            guests: session
                .guests
                .iter()
                .filter_map(|guest| guest.name.as_ref())
                .map(Name::private)
                .collect(),
            address,
            not_before: session.not_before,
            expires_at: session.expires_at,
            correlation_id: session.correlation_id.clone(),
            attributes: session.attributes.clone(),
        };
        let body = serde_json::to_vec(&link)?;
        Ok(Self::new(session, Role::Host, position, Recipient::Host, HOST_LINK_TYPE, body))
    }

    fn new(
        session: &Session,
        role: Role,
        position: usize,
        recipient: Recipient,
        kind: &'static str,
        body: Vec<u8>,
    ) -> Self {
        Self {
            recipient,
            kind,
            message_id: session.event_id.link_id(role, position),
            correlation_id: session.correlation.clone(),
            body: body.into(),
            deadline: session.expires_at,
        }
    }
}
