//! The order of work for a request. Each step has a limit, and the whole has one, too.

use std::{
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header},
};
use futures_util::FutureExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::{
    body,
    clients::{Client, Clients, Denied},
    config::{AddressBlock, ClientScope},
    head::{self, StartHead},
    problem::{self, HttpProblem, RETRY_SOON},
    receipts::{self, Receipts},
    sessions::{StartEvents, StartRequest},
};
use crate::{
    contract::{
        BODY_BYTES_MAX,
        http::{AcceptedBody, ProblemKind},
    },
    telemetry::metrics::labels::{Answered, AuthFailure, IngressRoute},
};

/// Maximum time of a request. A flow of Webex Connect waits 20 s, and a proxy needs time of its own.
pub(super) const REQUEST_MAX: Duration = Duration::from_secs(8);
/// Characters of a path segment that are percent-encoded.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Responds to requests.
#[derive(Debug)]
pub struct IngressService {
    pub clients: Clients,
    pub events: StartEvents,
    /// `None`: receipts are off.
    pub receipts: Option<Receipts>,
    pub in_flight: Semaphore,
    pub trusted_proxies: Vec<AddressBlock>,
    pub requires_key: bool,
    pub openapi: Bytes,
    /// A stop is requested: requests are served, and each response closes its connection.
    pub draining: CancellationToken,
    /// Further requests are refused.
    pub closed: CancellationToken,
}

/// Origin of a request.
#[derive(Clone, Debug)]
pub struct RequestOrigin {
    pub peer: IpAddr,
    /// True while an authenticated request of this connection is in progress.
    pub busy: Arc<AtomicBool>,
}

/// The log line about a request. Dropping it writes the line, also if the client disconnects before the response.
#[derive(Debug)]
pub(super) struct RequestLog {
    since: Instant,
    answered: Answered,
    client: Option<Arc<Client>>,
    pub(super) event_id: Option<Uuid>,
    pub(super) trace_id: Option<String>,
}

impl IngressService {
    /// Responds to `request` within [`REQUEST_MAX`].
    pub async fn answer(&self, request: Request<Body>, origin: &RequestOrigin) -> Response<Body> {
        let since = Instant::now();
        let route = route(request.uri().path());
        let mut timer = self.events.metrics.begin(route);
        let mut log = RequestLog::begin(since);
        let work = AssertUnwindSafe(self.serve(request, route, origin, since + REQUEST_MAX, &mut log));
        let result = match timeout_at(since + REQUEST_MAX, work.catch_unwind()).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => {
                error!("ingress: a request made the program panic (bug)");
                Err(HttpProblem::new(ProblemKind::Internal, "the program failed (bug)")
                    .retry_after(RETRY_SOON))
            }
            Err(_) => Err(HttpProblem::unconfirmed("the message was not confirmed in time")),
        };
        origin.busy.store(false, Ordering::Relaxed);
        let answered = match &result {
            Ok((answered, _)) => *answered,
            Err(problem) => Answered::Refused(problem.kind),
        };
        timer.set(answered);
        log.answered = answered;
        drop(log);
        let mut response = result.map_or_else(HttpProblem::response, |(_, response)| response);
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.draining.is_cancelled() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn serve(
        &self,
        request: Request<Body>,
        route: IngressRoute,
        origin: &RequestOrigin,
        deadline: Instant,
        log: &mut RequestLog,
    ) -> Result<(Answered, Response<Body>), HttpProblem> {
        if self.closed.is_cancelled() {
            return Err(HttpProblem::unavailable("the ingress is stopping", RETRY_SOON));
        }
        let method = request.method();
        match route {
            IngressRoute::Sessions if method == Method::POST => {
                self.start(request, origin, deadline, log).await.map(|body| accepted(&body))
            }
            IngressRoute::Sessions => Err(other_method("POST")),
            IngressRoute::Receipts => self.receive(request, origin, deadline).await,
            IngressRoute::Openapi if method == Method::GET || method == Method::HEAD => Ok(self.document()),
            IngressRoute::Openapi => Err(other_method("GET, HEAD")),
            IngressRoute::Other => Err(no_such_path()),
        }
    }

    async fn start(
        &self,
        request: Request<Body>,
        origin: &RequestOrigin,
        deadline: Instant,
        log: &mut RequestLog,
    ) -> Result<AcceptedBody, HttpProblem> {
        let (parts, body) = request.into_parts();
        if self.is_signed(&parts.headers) {
            return self.start_signed(&parts.headers, body, origin, deadline, log).await;
        }
        let _permit = self.begin()?;
        let client = self.admit(&parts.headers, origin.peer, ClientScope::Start)?;
        let _share = admitted(client, origin, log)?;
        let head = StartHead::read(&parts.headers, self.requires_key)?;
        let body = body::read(body, BODY_BYTES_MAX, deadline).await?;
        let request = StartRequest { client: Arc::clone(client), head, body, deadline };
        self.events.accept(request, log).await
    }

    /// Begins a request, if there is room for it.
    pub(super) fn begin(&self) -> Result<SemaphorePermit<'_>, HttpProblem> {
        let full = |_| HttpProblem::unavailable("too many requests are in progress", RETRY_SOON);
        self.in_flight.try_acquire().map_err(full)
    }

    fn admit(
        &self,
        headers: &HeaderMap,
        peer: IpAddr,
        scope: ClientScope,
    ) -> Result<&Arc<Client>, HttpProblem> {
        let address = head::client_address(peer, headers, &self.trusted_proxies);
        let mut given = headers.get_all(header::AUTHORIZATION).iter().map(HeaderValue::as_bytes);
        // Two tokens are as wrong as none: another program may have checked the other one.
        let authorization = given.next().filter(|_| given.next().is_none());
        let admitted = self.clients.admit(authorization, address, scope);
        admitted.map_err(|denied| self.denied(denied, address))
    }

    /// Counts and logs a refused request.
    pub(super) fn denied(&self, denied: Denied, address: IpAddr) -> HttpProblem {
        let (Denied::Unauthenticated(reason) | Denied::Forbidden(reason) | Denied::Throttled(reason, _)) =
            denied;
        self.events.metrics.auth_failed(reason);
        let reason: &'static str = reason.into();
        if let Denied::Throttled(_, wait) = denied {
            debug!(reason, %address, "ingress: request refused; too many refused requests from this address");
            let detail = "too many refused requests from this address";
            return HttpProblem::new(ProblemKind::RateLimited, detail).retry_after(wait);
        }
        warn!(reason, %address, "ingress: request refused");
        match denied {
            Denied::Forbidden(AuthFailure::Address) => {
                HttpProblem::new(ProblemKind::Forbidden, "the client may not call from this address")
            }
            Denied::Forbidden(_) => {
                HttpProblem::new(ProblemKind::Forbidden, "the client has no scope for this request")
            }
            // The same for all reasons, so that it does not tell what is right.
            _ => HttpProblem::new(
                ProblemKind::Unauthenticated,
                "expected Authorization: Bearer and a valid token; or one webhook-id, one webhook-timestamp of the last 5 minutes, and one \
                 webhook-signature of the body",
            ),
        }
    }

    fn document(&self) -> (Answered, Response<Body>) {
        let mut response = Response::new(Body::from(self.openapi.clone()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        (Answered::Served, response)
    }
}

impl RequestLog {
    pub(super) const fn begin(since: Instant) -> Self {
        Self { since, answered: Answered::Gone, client: None, event_id: None, trace_id: None }
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        // A request without a valid token is counted, and logged where it is refused.
        let Some(client) = &self.client else { return };
        let (client, outcome) = (client.name.as_str(), self.answered.as_str());
        let event_id = self.event_id.map(|id| id.to_string());
        let duration_ms = self.since.elapsed().as_secs_f64() * 1e3;
        let trace_id = self.trace_id.as_deref();
        match self.answered {
            Answered::Gone => {
                warn!(
                    client,
                    outcome,
                    event_id,
                    trace_id,
                    duration_ms,
                    "ingress: client disconnected before the response"
                );
            }
            Answered::Refused(ProblemKind::Unavailable | ProblemKind::Internal) => {
                warn!(client, outcome, event_id, trace_id, duration_ms, "ingress: request not accepted");
            }
            _ => info!(client, outcome, event_id, trace_id, duration_ms, "ingress: request completed"),
        }
    }
}

/// Begins a request of `client`, if its share and its rate allow it.
pub(super) fn admitted<'a>(
    client: &'a Arc<Client>,
    origin: &RequestOrigin,
    log: &mut RequestLog,
) -> Result<SemaphorePermit<'a>, HttpProblem> {
    origin.busy.store(true, Ordering::Relaxed);
    log.client = Some(Arc::clone(client));
    let share = client.begin().ok_or_else(|| {
        HttpProblem::unavailable("too many requests of this client are in progress", RETRY_SOON)
    })?;
    client.count().map_err(problem::rate_limited)?;
    Ok(share)
}

fn route(path: &str) -> IngressRoute {
    match path {
        "/v1/sessions" => IngressRoute::Sessions,
        path if path.starts_with(receipts::PATHS) => IngressRoute::Receipts,
        "/openapi.json" => IngressRoute::Openapi,
        _ => IngressRoute::Other,
    }
}

pub(super) fn no_such_path() -> HttpProblem {
    HttpProblem::new(ProblemKind::NotFound, "see /openapi.json for the paths")
}

pub(super) fn other_method(allowed: &'static str) -> HttpProblem {
    HttpProblem::new(ProblemKind::Method, "see the header Allow").allow(allowed)
}

fn accepted(body: &AcceptedBody) -> (Answered, Response<Body>) {
    let answered = if body.replayed { Answered::Replayed } else { Answered::Accepted };
    // Serialization cannot fail, because the body is text only.
    let mut response = Response::new(Body::from(serde_json::to_vec(body).unwrap_or_default()));
    *response.status_mut() = StatusCode::ACCEPTED;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let replayed = if body.replayed { "true" } else { "false" };
    headers.insert("idempotent-replayed", HeaderValue::from_static(replayed));
    let location = format!("/v1/sessions/{}", utf8_percent_encode(&body.session_id, SEGMENT));
    if let Ok(location) = HeaderValue::from_str(&location) {
        headers.insert(header::LOCATION, location);
    }
    (answered, response)
}
