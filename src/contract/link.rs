//! Outgoing link messages. Guest links and host links are different types from Instant Connect's response to the routing key, and
//! no code converts one into the other.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    decode,
    ids::{self, Role},
    outgoing::{Outgoing, Route, short_correlation},
    people::{Channel, Expert, Name, PhoneNumber},
    private::Private,
    stage::{MessageKind, QueueDef},
    start_session::{Attributes, Session},
    time::WireTime,
};

/// A meeting link: the whole URL, and for a short link its two parts, which `WhatsApp` message templates need. `url` is `baseUrl`
/// followed by `short`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeetingLink {
    /// The whole link.
    pub url: Private<String>,
    /// The beginning that all short links share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The part after `baseUrl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short: Option<Private<String>>,
}

/// A link that opens the meeting as a guest. Only [`crate::instant_connect`] creates it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct GuestLinkUrl(pub(crate) MeetingLink);

/// A link that opens the meeting as its host. Only [`crate::instant_connect`] creates it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct HostLinkUrl(pub(crate) MeetingLink);

impl HostLinkUrl {
    /// Returns the whole link. Only the expert may see it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.url.reveal()
    }
}

impl GuestLinkUrl {
    /// Returns the whole link. Only the guest may see it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.url.reveal()
    }
}

/// A guest's link and phone number, for the SMS and `WhatsApp` senders (`video.guest-link.v1`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Guest link, version 1 (video.guest-link.v1)")]
pub struct GuestLink {
    /// The id of the start event.
    pub event_id: String,
    /// As in the start event.
    pub session_id: Private<String>,
    /// Channel of the guest's message.
    pub channel: Channel,
    /// The guest's phone number.
    pub to: PhoneNumber,
    /// The guest's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Private<String>>,
    /// Language of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// Time zone of the times in the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// The link.
    #[serde(flatten)]
    pub address: GuestLinkUrl,
    /// When the link becomes valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<WireTime>,
    /// When the link expires.
    pub expires_at: WireTime,
    /// As in the start event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Private<String>>,
    /// As in the start event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
}

/// A host's link and its recipient, for stage `host` or another consumer of `host.webex` (`video.host-link.v1`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Host link, version 1 (video.host-link.v1)")]
pub struct HostLink {
    /// The id of the start event.
    pub event_id: String,
    /// As in the start event.
    pub session_id: Private<String>,
    /// The recipient of the link, as in the start event.
    #[serde(deserialize_with = "decode::object")]
    pub expert: Expert,
    /// The names of the guests. Guests without a name are left out.
    pub guests: Vec<Private<String>>,
    /// The link.
    #[serde(flatten)]
    pub address: HostLinkUrl,
    /// When the link becomes valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<WireTime>,
    /// When the link expires.
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

/// Name of the exchange for links, without the prefix.
pub const EXCHANGE: &str = "links";

/// The routes of all links.
pub const ROUTES: [Route; 3] = [guest_route(Channel::Sms), guest_route(Channel::Whatsapp), HOST_ROUTE];

/// The route of host links, to the experts.
const HOST_ROUTE: Route =
    Route { exchange: EXCHANGE, routing_key: HOST_ROUTING_KEY, role: "host", channel: "webex" };

/// The queue of guest links, which the SMS and WhatsApp senders consume.
pub static GUESTS: QueueDef = QueueDef {
    name: "guests",
    bindings: &[(EXCHANGE, Channel::Sms.routing_key()), (EXCHANGE, Channel::Whatsapp.routing_key())],
    messages: MessageKind::GuestLink,
};

/// The queue of guest links for stage `sms`. It replaces [`GUESTS`] if the worker sends the messages itself.
pub static GUESTS_SMS: QueueDef = QueueDef {
    name: "guests.sms",
    bindings: &[(EXCHANGE, Channel::Sms.routing_key())],
    messages: MessageKind::GuestLink,
};

/// The queue of guest links for stage `whatsapp`, as [`GUESTS_SMS`].
pub static GUESTS_WHATSAPP: QueueDef = QueueDef {
    name: "guests.whatsapp",
    bindings: &[(EXCHANGE, Channel::Whatsapp.routing_key())],
    messages: MessageKind::GuestLink,
};

/// The queue of host links.
pub static HOSTS: QueueDef =
    QueueDef { name: "hosts", bindings: &[(EXCHANGE, HOST_ROUTING_KEY)], messages: MessageKind::HostLink };

/// The route of guest links to the senders for `channel`.
const fn guest_route(channel: Channel) -> Route {
    Route { exchange: EXCHANGE, routing_key: channel.routing_key(), role: "guest", channel: channel.as_str() }
}

/// Messages with links. Their routes, types and ids follow from the types of the links.
impl Outgoing {
    /// Builds the message for the guest at `position` of `session`.
    ///
    /// # Errors
    /// JSON serialization of a link cannot fail in practice. Treat an error as a defect of this program.
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
            time_zone: guest.time_zone.as_ref().map(|zone| zone.as_str().to_owned()),
            address,
            not_before: session.not_before,
            expires_at: session.expires_at,
            correlation_id: session.correlation_id.clone(),
            attributes: session.attributes.clone(),
        };
        let body = serde_json::to_vec(&link)?;
        Ok(Self::link(session, Role::Guest, position, guest_route(guest.channel), GUEST_LINK_TYPE, body))
    }

    /// Builds the message for the expert at `position` of `session`.
    ///
    /// # Errors
    /// See [`Outgoing::guest`].
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
        Ok(Self::link(session, Role::Host, position, HOST_ROUTE, HOST_LINK_TYPE, body))
    }

    /// Builds the message with which stage `sms` sends `link`, because `WhatsApp` does not deliver the message `id`. It is the same for
    /// each repeat.
    ///
    /// # Errors
    /// See [`Outgoing::guest`].
    pub fn by_sms(link: &GuestLink, id: &Uuid) -> Result<Self, serde_json::Error> {
        let body = serde_json::to_vec(&GuestLink { channel: Channel::Sms, ..link.clone() })?;
        let correlation = link.correlation_id.as_ref().map(|id| id.reveal().as_str());
        Ok(Self {
            route: guest_route(Channel::Sms),
            kind: GUEST_LINK_TYPE,
            message_id: ids::hash(format!("{id}/sms").as_bytes()),
            correlation_id: short_correlation(correlation, &link.event_id),
            body: body.into(),
            deadline: link.expires_at,
        })
    }

    fn link(
        session: &Session,
        role: Role,
        position: usize,
        route: Route,
        kind: &'static str,
        body: Vec<u8>,
    ) -> Self {
        Self {
            route,
            kind,
            message_id: session.event_id.link_id(role, position),
            correlation_id: session.correlation.clone(),
            body: body.into(),
            deadline: session.expires_at,
        }
    }
}
