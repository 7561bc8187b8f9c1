//! Client that sends messages to guests.

use std::time::Duration;

use serde::Serialize;
use url::Url;

pub use super::answer::AcceptedMessage;
use super::{
    ConnectApi,
    answer::{self, Refused},
    codes,
};
use crate::{
    contract::{people::PhoneNumber, trace::TraceContext},
    random::Random,
    upstream::{ErrorCause, Upstream, UpstreamError},
};

/// Configured client for one of the APIs.
#[derive(Debug)]
pub struct ConnectClient {
    upstream: Upstream,
    url: Url,
    api: ConnectApi,
}

impl ConnectClient {
    /// A client that posts to `url`, the complete URL of the endpoint of `api`.
    #[must_use]
    pub const fn new(upstream: Upstream, url: Url, api: ConnectApi) -> Self {
        Self { upstream, url, api }
    }

    /// True if the key file now has another key than at the last call.
    pub(crate) fn has_new_token(&self) -> bool {
        self.upstream.has_new_token()
    }

    /// Checks if Webex Connect accepts the key. The request has no content, so it cannot send a message.
    ///
    /// # Errors
    /// [`UpstreamError`] if the key is refused, or Webex Connect does not respond.
    pub(crate) async fn try_key(&self) -> Result<(), UpstreamError> {
        let trace = TraceContext::begin(&Random::system());
        let empty = serde_json::json!({});
        let mut response =
            self.upstream.post_for_any_status(self.url.clone(), &empty, "", &trace, Duration::MAX).await?;
        match answer::read(self.api, response.status, response.retry_after.is_some(), &response.body) {
            Ok(_) | Err(Refused { cause: ErrorCause::Request | ErrorCause::SessionOver, .. }) => {
                response.mark_ok();
                Ok(())
            }
            // Whatever the code means, the API works. Otherwise no message that may have been sent would be sent again.
            Err(Refused { code: Some(code), .. })
                if response.status < 500 && codes::meaning(self.api, code).is_none() =>
            {
                response.mark_ok();
                Ok(())
            }
            Err(refused) => {
                let error = refused.into_error(&self.upstream, &response);
                Err(self.upstream.refused_with(response, "", error).await)
            }
        }
    }

    /// Sends `message` to the guest with the number `to`, within `limit`. Webex Connect has no idempotency key: after a timeout,
    /// or a success without an id, the message may have been sent.
    ///
    /// # Errors
    /// [`UpstreamError`], classified by the possible reaction.
    pub(crate) async fn send<M: Serialize + Sync>(
        &self,
        message: &M,
        to: &PhoneNumber,
        trace: &TraceContext,
        limit: Duration,
    ) -> Result<AcceptedMessage, UpstreamError> {
        let subject = to.reveal();
        let response =
            self.upstream.post_for_any_status(self.url.clone(), message, subject, trace, limit).await?;
        match answer::read(self.api, response.status, response.retry_after.is_some(), &response.body) {
            Ok(accepted) => {
                self.upstream.accepted(response, subject);
                Ok(accepted)
            }
            Err(refused) => {
                let error = refused.into_error(&self.upstream, &response);
                Err(self.upstream.refused_with(response, subject, error).await)
            }
        }
    }
}
