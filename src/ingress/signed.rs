//! The order of work for a signed request. Its client is known only after its body is read.

use std::{net::IpAddr, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use tokio::time::Instant;
use tracing::debug;

use super::{
    body,
    client_signatures::{GivenSignature, SIGNATURE},
    clients::{Client, Denied},
    config::ClientScope,
    head::{self, StartHead},
    problem::{HttpProblem, RETRY_SOON},
    rate::AddressBuckets,
    service::{IngressService, RequestLog, RequestOrigin, admitted},
    sessions::StartRequest,
};
use crate::{
    contract::{BODY_BYTES_MAX, http::AcceptedBody, private::Private},
    telemetry::metrics::labels::AuthFailure,
};

/// A request whose signature is right.
struct VerifiedRequest<'a> {
    client: &'a Arc<Client>,
    id: Private<String>,
    body: Vec<u8>,
}

/// A body that is being read. Dropping it before its end takes a permit of its address, because it is slow, too large or malformed, or its client is gone.
struct UnreadBody<'a> {
    refused: &'a AddressBuckets,
    address: IpAddr,
    is_read: bool,
}

impl Drop for UnreadBody<'_> {
    fn drop(&mut self) {
        if !self.is_read {
            // An address without permits needs no other effect.
            _ = self.refused.take(self.address);
        }
    }
}

impl IngressService {
    /// True if the signature counts. With an `Authorization` header, only the token counts.
    pub(super) fn is_signed(&self, headers: &HeaderMap) -> bool {
        !headers.contains_key(header::AUTHORIZATION)
            && headers.contains_key(SIGNATURE)
            && self.clients.may_sign()
    }

    /// Starts the session of a signed request.
    ///
    /// # Errors
    /// [`HttpProblem`].
    pub(super) async fn start_signed(
        &self,
        headers: &HeaderMap,
        body: Body,
        origin: &RequestOrigin,
        deadline: Instant,
        log: &mut RequestLog,
    ) -> Result<AcceptedBody, HttpProblem> {
        let address = head::client_address(origin.peer, headers, &self.trusted_proxies);
        let VerifiedRequest { client, id, body } = self.verify(headers, body, address, deadline).await?;
        let _permit = self.begin()?;
        let _share = admitted(client, origin, log)?;
        let head = StartHead::read(headers, false)?.named_by(&id)?;
        let request = StartRequest { client: Arc::clone(client), head, body, deadline };
        self.events.accept(request, log).await
    }

    /// Reads the body and checks its signature. Anybody can send such a body, so it has a place of its own, and an address with many refused
    /// requests has none.
    async fn verify(
        &self,
        headers: &HeaderMap,
        body: Body,
        address: IpAddr,
        deadline: Instant,
    ) -> Result<VerifiedRequest<'_>, HttpProblem> {
        let denied = |denied| self.denied(denied, address);
        if let Some(wait) = self.clients.refused.wait(address) {
            return Err(denied(Denied::Throttled(AuthFailure::Throttled, wait)));
        }
        head::check_framing(headers, BODY_BYTES_MAX)?;
        let given = GivenSignature::read(headers, self.events.clock.now())
            .map_err(|failure| denied(self.clients.refuse(failure, address)))?;
        let _place = self.clients.unverified.try_acquire().map_err(|_| {
            debug!(%address, "ingress: too many signed requests in progress; request not accepted");
            HttpProblem::unavailable("too many signed requests are in progress", RETRY_SOON)
        })?;
        let mut unread = UnreadBody { refused: &self.clients.refused, address, is_read: false };
        let body = body::read(body, BODY_BYTES_MAX, deadline).await?;
        unread.is_read = true;
        let client = self.clients.admit_signed(&given, &body, address, ClientScope::Start).map_err(denied)?;
        Ok(VerifiedRequest { client, id: given.id, body })
    }
}
