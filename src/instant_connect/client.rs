//! Asks Instant Connect for the links of a session.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::info;
use url::Url;

use super::{
    request::{LinkOptions, LinksCall, Request},
    response::{self, LinkRules},
};
use crate::{
    clock,
    contract::{
        link::{GuestLinkUrl, HostLinkUrl},
        private::loggable_id,
        start_session::Session,
    },
    fault,
    upstream::{ErrorCause, Upstream, UpstreamError},
};

/// Instant Connect, as configured.
#[derive(Debug)]
pub struct InstantConnectClient {
    upstream: Upstream,
    url: Url,
    options: LinkOptions,
    rules: LinkRules,
}

/// The links of one session, or the first of them: in the order of its experts and guests, experts first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Links {
    /// One for each expert.
    pub hosts: Vec<HostLinkUrl>,
    /// One for each guest.
    pub guests: Vec<GuestLinkUrl>,
}

impl Links {
    /// How many there are, of hosts and guests.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.hosts.len() + self.guests.len()
    }
}

impl InstantConnectClient {
    /// A client that posts to `url`, the whole endpoint.
    #[must_use]
    pub const fn new(upstream: Upstream, url: Url, options: LinkOptions, rules: LinkRules) -> Self {
        Self { upstream, url, options, rules }
    }

    /// `links`, the first of `session` if any, and those that the next call makes. A repeat makes other links, to the
    /// same meeting, and with the first of them calls the session's devices.
    ///
    /// # Errors
    /// [`UpstreamError`] of a call that brings none.
    pub async fn more(&self, session: &Session, mut links: Links) -> Result<Links, UpstreamError> {
        let Some(call) = LinksCall::after(links.count(), session.experts.len(), session.guests.len()) else {
            return Ok(links);
        };
        let request = Request::new(&self.options, session, &call);
        let left = session.expires_at.timestamp().duration_since(clock::now());
        let left = Duration::try_from(left).unwrap_or(Duration::ZERO);
        let (url, subject) = (self.url.clone(), session.event_id.as_str());
        let answer = self.upstream.post(url, &request, subject, &session.trace, left).await;
        let mut answer = answer.map_err(forbidden)?;
        fault::point("link", "answered");
        let (hosts, guests) = response::read(&answer.body, &call, session.vertical, &self.rules)
            .map_err(|problem| self.malformed(problem, answer.tracking_id.as_deref()))?;
        links.hosts.extend(hosts);
        links.guests.extend(guests);
        if !response::all_different(&links.hosts, &links.guests) {
            return Err(self.malformed("the same link twice".to_owned(), answer.tracking_id.as_deref()));
        }
        answer.mark_ok();
        info!(
            event_id = %loggable_id(session.event_id.as_str()), trace_id = session.trace.trace_id(),
            tracking_id = answer.tracking_id.as_deref().unwrap_or("none"),
            hosts = call.hosts.len(), guests = call.guests.len(), "Instant Connect made links"
        );
        Ok(links)
    }

    fn malformed(&self, problem: String, tracking_id: Option<&str>) -> UpstreamError {
        let tracking = tracking_id.map_or_else(String::new, |id| format!(" (tracking id {id})"));
        UpstreamError::malformed(self.upstream.name(), problem + &tracking)
    }
}

/// Nothing in a request is about a person, so a 403 is about us: Instant Connect is not activated, or not for our
/// token. No event is to blame for that. A proxy's 403 says nothing of our token.
fn forbidden(error: UpstreamError) -> UpstreamError {
    let by_webex = error.cause == ErrorCause::Request;
    if by_webex && error.status == Some(403) {
        UpstreamError { cause: ErrorCause::Token, ..error }
    } else {
        error
    }
}
