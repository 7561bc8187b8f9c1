//! A request with a receipt: its order of work.

use std::{net::IpAddr, sync::atomic::Ordering};

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request, Response},
};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{METHODS, PATH, Receipts, unavailable};
use crate::{
    contract::http::ProblemKind,
    ingress::{
        body, head,
        problem::HttpProblem,
        service::{IngressService, RequestOrigin, no_such_path, other_method},
    },
    telemetry::metrics::labels::{Answered, ReceiptRefused},
    webex_connect::receipt::RECEIPT_BYTES_MAX,
};

impl IngressService {
    /// Responds to a request to the path of receipts. Webex Connect sends `HEAD` when an operator saves the webhook; it tells nothing, so it
    /// needs no signature.
    ///
    /// # Errors
    /// [`HttpProblem`].
    pub(in crate::ingress) async fn receive(
        &self,
        request: Request<Body>,
        origin: &RequestOrigin,
        deadline: Instant,
    ) -> Result<(Answered, Response<Body>), HttpProblem> {
        let Some(receipts) = self.receipts.as_ref().filter(|_| request.uri().path() == PATH) else {
            return Err(no_such_path());
        };
        if request.method() == Method::HEAD {
            return Ok((Answered::Served, Response::new(Body::empty())));
        }
        if request.method() != Method::POST {
            return Err(other_method(METHODS));
        }
        let (parts, body) = request.into_parts();
        let address = head::client_address(origin.peer, &parts.headers, &self.trusted_proxies);
        let result = self.take(receipts, &parts.headers, body, origin, address, deadline).await;
        if let Err(problem) = &result
            && problem.kind == ProblemKind::Unavailable
        {
            // Anybody can cause a 503, so the number of lines is limited.
            match self.clients.reported.take(address) {
                Ok(()) => {
                    warn!(reason = problem.detail(), %address, "ingress: receipt not accepted; Webex Connect repeats it");
                }
                Err(_) => {
                    debug!(reason = problem.detail(), %address, "ingress: receipt not accepted; too many from this address");
                }
            }
        }
        result.map(|answered| (answered, Response::new(Body::empty())))
    }

    async fn take(
        &self,
        receipts: &Receipts,
        headers: &HeaderMap,
        body: Body,
        origin: &RequestOrigin,
        address: IpAddr,
        deadline: Instant,
    ) -> Result<Answered, HttpProblem> {
        let _permit = receipts.begin()?;
        head::check_framing(headers, RECEIPT_BYTES_MAX)?;
        let refused = |reason| self.refuse_receipt(receipts, reason, address);
        let signature = receipts.signature(headers).map_err(refused)?;
        let body =
            body::read(body, RECEIPT_BYTES_MAX, deadline).await.map_err(|problem| match problem.kind {
                // Webex Connect does not repeat a receipt after a 408.
                ProblemKind::Slow => unavailable("the body did not come in time"),
                _ => problem,
            })?;
        receipts.verify(&body, signature.as_deref()).map_err(refused)?;
        origin.busy.store(true, Ordering::Relaxed);
        receipts.accept(&body, deadline).await
    }

    /// Counts a receipt without a valid signature or key. An address that sends many of them is told to wait; valid receipts from the same
    /// address are still accepted.
    fn refuse_receipt(&self, receipts: &Receipts, reason: ReceiptRefused, address: IpAddr) -> HttpProblem {
        receipts.metrics.refused(reason);
        let reason: &'static str = reason.into();
        if let Err(wait) = self.clients.refused.take(address) {
            debug!(reason, %address, "ingress: receipt refused; too many from this address");
            let detail = "too many refused requests from this address";
            return HttpProblem::new(ProblemKind::RateLimited, detail).retry_after(wait);
        }
        warn!(reason, %address, "ingress: receipt refused; check the secret or the key in Webex Connect and in section receipts");
        HttpProblem::new(ProblemKind::Unauthenticated, receipts.expected())
    }
}
