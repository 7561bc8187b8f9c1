//! Gives an expert a host's link.

use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::card::MessageRequest;
use crate::{
    contract::{decode, link::HostLink, people::HostAddress, trace::TraceContext},
    upstream::{Upstream, UpstreamError},
};

/// The Messages API, as configured.
#[derive(Debug)]
pub struct Client {
    upstream: Upstream,
    messages: Url,
}

/// What is believed of the answer.
#[derive(Deserialize)]
struct Created {
    id: String,
}

/// A message that Webex took.
#[derive(Debug, PartialEq, Eq)]
pub struct Sent {
    /// Webex's id of the message, empty where its answer could not be read.
    pub message_id: String,
    /// What Cisco's support asks for.
    pub tracking_id: Option<String>,
}

impl Client {
    /// A client that posts to `messages`, the whole endpoint.
    #[must_use]
    pub const fn new(upstream: Upstream, messages: Url) -> Self {
        Self { upstream, messages }
    }

    /// Sends `link` to the expert at `address`, within `limit`. There is no idempotency key: after a time limit the
    /// message may have been sent all the same.
    ///
    /// # Errors
    /// [`UpstreamError`], sorted by what can be done.
    pub async fn send(
        &self,
        address: &HostAddress<'_>,
        link: &HostLink,
        trace: &TraceContext,
        limit: Duration,
    ) -> Result<Sent, UpstreamError> {
        let request = MessageRequest::new(address, link);
        let answer = match self.upstream.post(self.messages.clone(), &request, trace, limit).await {
            Ok(answer) => answer,
            // A 2xx is a message that was sent. An answer that can't be read must not send it again.
            Err(error) if error.status.is_some_and(|status| (200..300).contains(&status)) => {
                return Ok(Sent { message_id: String::new(), tracking_id: None });
            }
            Err(error) => return Err(error),
        };
        let id = decode::from_json::<Created>(&answer.body).map(|created| created.id).unwrap_or_default();
        Ok(Sent { message_id: id, tracking_id: answer.tracking_id })
    }
}
