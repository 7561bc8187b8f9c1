//! Client that sends host links to experts.

use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::{card::MessageRequest, sent_before};
use crate::{
    contract::{decode, link::HostLink, people::ExpertDestination, trace::TraceContext},
    upstream::{ErrorCause, Upstream, UpstreamError},
};

/// Configured client for the Messages API.
#[derive(Debug)]
pub struct WebexClient {
    upstream: Upstream,
    messages: Url,
}

/// Proof that a message was created: the ids of the message and its room.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    id: String,
    room_id: String,
}

/// A message that Webex accepted.
#[derive(Debug, PartialEq, Eq)]
pub struct Sent {
    /// Webex's id of the message.
    pub message_id: String,
    /// Tracking id for Cisco's support.
    pub tracking_id: Option<String>,
}

impl WebexClient {
    /// A client that posts to `messages`, the complete URL of the endpoint.
    #[must_use]
    pub const fn new(upstream: Upstream, messages: Url) -> Self {
        Self { upstream, messages }
    }

    /// True if the token file now has another token than at the last call.
    pub(crate) fn has_new_token(&self) -> bool {
        self.upstream.has_new_token()
    }

    /// Checks if one of the latest messages to the person at `destination` contains `link`. `None` if that cannot be
    /// known: in a space a bot sees only messages that mention it, the token may not be allowed to read messages, and a message may be larger
    /// than a response may be. The API is asked also for a space: the caller may send the message again, and each send to an API that does
    /// not answer would be one that may have sent it.
    ///
    /// # Errors
    /// As [`WebexClient::send`].
    pub async fn was_sent(
        &self,
        destination: &ExpertDestination<'_>,
        link: &HostLink,
        trace: &TraceContext,
    ) -> Result<Option<bool>, UpstreamError> {
        let (list, sees_all) = self.list_of(destination);
        let mut answer = match self.upstream.get_beginning(list, subject(destination), trace).await {
            // No direct messages with that person yet. A 404 page of a proxy does not have this cause.
            Err(error) if error.cause == ErrorCause::Request && error.status == Some(404) && sees_all => {
                return Ok(Some(false));
            }
            // Webex refuses only the reading of messages.
            Err(error) if error.cause == ErrorCause::Request => return Ok(None),
            answer => answer?,
        };
        // The newest message is first, so the beginning of a long list is sufficient. Each link is for one expert, so a
        // message that contains the link is the message to look for.
        let sent = sent_before::holds(&answer.body, answer.is_whole, link.address.reveal())
            .map_err(|invalid| UpstreamError::malformed(self.upstream.name(), invalid))?;
        answer.mark_ok();
        Ok(sent.filter(|sent| *sent || sees_all))
    }

    /// The URL of the list of the latest messages to `destination`, and true if the list has all of them.
    fn list_of(&self, destination: &ExpertDestination<'_>) -> (Url, bool) {
        let mut list = self.messages.clone();
        let is_person = !matches!(destination, ExpertDestination::Room(_));
        if is_person {
            list.set_path(&format!("{}/direct", self.messages.path()));
        }
        let query = match *destination {
            ExpertDestination::Email(email) => vec![("personEmail", email.reveal())],
            ExpertDestination::Person(id) => vec![("personId", id)],
            // A bot must ask for mentions of itself ("List Messages" in Webex's API reference).
            ExpertDestination::Room(id) => vec![("roomId", id), ("mentionedPeople", "me"), ("max", "1")],
        };
        list.query_pairs_mut().extend_pairs(query);
        (list, is_person)
    }

    /// Sends `link` to the expert at `destination`, within `limit`. Webex has no idempotency key: after a timeout, or a
    /// success without message ids, the message may have been sent.
    ///
    /// # Errors
    /// [`UpstreamError`], classified by the possible reaction.
    pub async fn send(
        &self,
        destination: &ExpertDestination<'_>,
        link: &HostLink,
        trace: &TraceContext,
        limit: Duration,
    ) -> Result<Sent, UpstreamError> {
        let request = MessageRequest::new(destination, link);
        let (url, subject) = (self.messages.clone(), subject(destination));
        let mut answer = self.upstream.post(url, &request, subject, trace, limit).await?;
        let name = self.upstream.name();
        let created: Created =
            decode::from_json(&answer.body).map_err(|invalid| UpstreamError::malformed(name, invalid))?;
        if created.id.is_empty() || created.room_id.is_empty() {
            return Err(UpstreamError::malformed(name, "a message without an id"));
        }
        answer.mark_ok();
        Ok(Sent { message_id: created.id, tracking_id: answer.tracking_id })
    }
}

/// The id of the person or the space that gets the message.
fn subject<'a>(destination: &ExpertDestination<'a>) -> &'a str {
    match *destination {
        ExpertDestination::Email(email) => email.reveal(),
        ExpertDestination::Person(id) | ExpertDestination::Room(id) => id,
    }
}
