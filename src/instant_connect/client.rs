//! Client that requests the links of a session from Instant Connect.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::info;
use url::Url;

use super::{
    links_call::LinksCall,
    request::{LinkOptions, Request},
    response::{self, LinkRules},
};
use crate::{
    contract::{
        link::{GuestLinkUrl, HostLinkUrl},
        start_session::Session,
        trace::TraceContext,
    },
    fault,
    upstream::{ErrorCause, Upstream, UpstreamError},
};

/// Configured client for Instant Connect.
#[derive(Debug)]
pub struct InstantConnectClient {
    upstream: Upstream,
    url: Url,
    options: LinkOptions,
    rules: LinkRules,
}

/// All links of one session, or the first of them, in the order of its experts and guests; experts come first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Links {
    /// One link for each expert.
    pub hosts: Vec<HostLinkUrl>,
    /// One link for each guest.
    pub guests: Vec<GuestLinkUrl>,
}

impl Links {
    /// Number of host links and guest links.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.hosts.len() + self.guests.len()
    }
}

impl InstantConnectClient {
    /// A client that posts to `url`, the complete URL of the endpoint.
    #[must_use]
    pub const fn new(upstream: Upstream, url: Url, options: LinkOptions, rules: LinkRules) -> Self {
        Self { upstream, url, options, rules }
    }

    /// True if the token file now has another token than at the last call.
    pub(crate) fn has_new_token(&self) -> bool {
        self.upstream.has_new_token()
    }

    /// Makes the next call for `session` and returns `links` together with the new links. Without a missing link there is
    /// no call. A repeated call makes different links to the same meeting. The first call of a session also calls its
    /// devices.
    ///
    /// # Errors
    /// [`UpstreamError`] if the call returns no usable links.
    pub async fn next_call(
        &self,
        session: &Session,
        mut links: Links,
        trace: &TraceContext,
    ) -> Result<Links, UpstreamError> {
        let Some(call) = LinksCall::after(links.count(), session.experts.len(), session.guests.len()) else {
            return Ok(links);
        };
        let request = Request::new(&self.options, session, &call);
        let left = session.expires_at.timestamp().duration_since(self.upstream.clock().now());
        let left = Duration::try_from(left).unwrap_or(Duration::ZERO);
        let (url, subject) = (self.url.clone(), session.event_id.as_str());
        let answer = self.upstream.post(url, &request, subject, trace, left).await;
        let mut answer = answer.map_err(forbidden)?;
        fault::point("link", "answered");
        let (hosts, guests) = response::read(&answer.body, &call, session.vertical, &self.rules)
            .map_err(|problem| self.malformed(problem, answer.tracking_id.as_deref()))?;
        links.hosts.extend(hosts);
        links.guests.extend(guests);
        if !response::all_different(&links.hosts, &links.guests) {
            return Err(self.malformed("duplicate link".to_owned(), answer.tracking_id.as_deref()));
        }
        answer.mark_ok();
        info!(
            tracking_id = answer.tracking_id.as_deref().unwrap_or("none"),
            hosts = call.hosts.len(),
            guests = call.guests.len(),
            "links received from Instant Connect"
        );
        Ok(links)
    }

    fn malformed(&self, problem: String, tracking_id: Option<&str>) -> UpstreamError {
        let tracking = tracking_id.map_or_else(String::new, |id| format!(" (tracking id {id})"));
        UpstreamError::malformed(self.upstream.name(), problem + &tracking)
    }
}

/// Treats a 403 from Webex as a rejected token. A request contains nothing about a person, so a 403 is not caused by the
/// event: Instant Connect is not activated, or not for our token. A 403 from a proxy does not concern the token.
fn forbidden(error: UpstreamError) -> UpstreamError {
    let by_webex = error.cause == ErrorCause::Request;
    if by_webex && error.status == Some(403) {
        UpstreamError { cause: ErrorCause::Token, ..error }
    } else {
        error
    }
}
