//! Gives an expert a host's link.

use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::{card::MessageRequest, listed};
use crate::{
    contract::{decode, link::HostLink, people::ExpertDestination, trace::TraceContext},
    upstream::{ErrorCause, Upstream, UpstreamError},
};

/// The Messages API, as configured.
#[derive(Debug)]
pub struct WebexClient {
    upstream: Upstream,
    messages: Url,
}

/// What proves that a message was created: Webex names it and where it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    id: String,
    room_id: String,
}

/// A message that Webex took.
#[derive(Debug, PartialEq, Eq)]
pub struct Sent {
    /// Webex's id of the message.
    pub message_id: String,
    /// What Cisco's support asks for.
    pub tracking_id: Option<String>,
}

impl WebexClient {
    /// A client that posts to `messages`, the whole endpoint.
    #[must_use]
    pub const fn new(upstream: Upstream, messages: Url) -> Self {
        Self { upstream, messages }
    }

    /// Whether a message with `link` was sent to the person at `address` before, among the latest that were. `None` where
    /// that can't be known: in a space a bot sees only messages that mention it, and a token may not be allowed to read.
    ///
    /// # Errors
    /// As [`WebexClient::send`].
    pub async fn was_sent(
        &self,
        address: &ExpertDestination<'_>,
        link: &HostLink,
        trace: &TraceContext,
    ) -> Result<Option<bool>, UpstreamError> {
        let mut direct = self.messages.clone();
        direct.set_path(&format!("{}/direct", self.messages.path()));
        match *address {
            ExpertDestination::Email(email) => {
                direct.query_pairs_mut().append_pair("personEmail", email.reveal())
            }
            ExpertDestination::Person(id) => direct.query_pairs_mut().append_pair("personId", id),
            ExpertDestination::Room(_) => return Ok(None),
        };
        let mut answer = match self.upstream.get_beginning(direct, subject(address), trace).await {
            // No direct messages with that person yet. A page of something in between is no such answer.
            Err(error) if error.cause == ErrorCause::Request && error.status == Some(404) => {
                return Ok(Some(false));
            }
            // This refuses the look alone.
            Err(error) if error.cause == ErrorCause::Request => return Ok(None),
            answer => answer?,
        };
        // Newest first, so that the beginning of a long list is enough. A link is for one expert alone, so a message that
        // holds it is the one.
        let sent = listed::holds(&answer.body, answer.is_whole, link.address.reveal())
            .map_err(|invalid| UpstreamError::malformed(self.upstream.name(), invalid))?;
        answer.mark_ok();
        Ok(Some(sent))
    }

    /// Sends `link` to the expert at `address`, within `limit`. There is no idempotency key: after a time limit, or a
    /// success without the message in it, the message may have been sent all the same.
    ///
    /// # Errors
    /// [`UpstreamError`], sorted by what can be done.
    pub async fn send(
        &self,
        address: &ExpertDestination<'_>,
        link: &HostLink,
        trace: &TraceContext,
        limit: Duration,
    ) -> Result<Sent, UpstreamError> {
        let request = MessageRequest::new(address, link);
        let (url, subject) = (self.messages.clone(), subject(address));
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

/// The person or the space that a call is about.
fn subject<'a>(address: &ExpertDestination<'a>) -> &'a str {
    match *address {
        ExpertDestination::Email(email) => email.reveal(),
        ExpertDestination::Person(id) | ExpertDestination::Room(id) => id,
    }
}
