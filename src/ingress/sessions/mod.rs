//! `POST /v1/sessions`: from a body to a confirmed start event.
//!
//! - `idempotency`: the ledger's part; `publish`: the broker's part

mod idempotency;
mod publish;

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use self::{
    idempotency::{ClaimedKey, first_time},
    publish::NotPublished,
};
use super::{
    clients::Client,
    head::StartHead,
    outlet::Outlet,
    problem::{self, HttpProblem},
    service::RequestLog,
};
use crate::{
    clock::Clock,
    contract::{
        http::AcceptedBody,
        ids,
        message::Message,
        start_session::{Session, SessionRules, StartMessage},
        trace::TraceContext,
    },
    ledger::Ledger,
    random::Random,
    telemetry::{
        metrics::IngressMetrics,
        traces::{DeliverySpan, Tracer},
    },
};

/// The only organisation. Its name is part of event ids, so that ids stay the same when there are several.
const ORGANISATION: &str = "default";
/// Time that stays for what follows the confirm.
const RESERVE: Duration = Duration::from_secs(1);
/// Time for which a request is remembered: from before its publish, and again from its confirm.
const KEPT: SignedDuration = SignedDuration::from_hours(24);

/// Makes start events of requests.
#[derive(Clone, Debug)]
pub struct StartEvents {
    pub outlet: Outlet,
    pub ledger: Ledger,
    pub clock: Clock,
    /// Makes the ids of new traces.
    pub random: Random,
    /// Accept requests while the ledger is unavailable. The stage still recognises repeats by their ids.
    pub without_ledger: bool,
    pub rules: SessionRules,
    /// Time for which the stage remembers an event after its session.
    pub margin: SignedDuration,
    pub tracer: Tracer,
    pub metrics: IngressMetrics,
}

/// A request as its client sent it.
pub(super) struct StartRequest {
    pub(super) client: Arc<Client>,
    pub(super) head: StartHead,
    pub(super) body: Vec<u8>,
    /// Time of the response at the latest.
    pub(super) deadline: Instant,
}

/// A valid start event with its id.
struct ValidEvent {
    /// Its time of publishing is the event's time, from which the stage counts.
    message: Message,
    id: Uuid,
    session: Session,
    /// The request has a key or a CloudEvent id.
    is_named: bool,
    /// Time until which a repeat is recognised.
    remembered_until: Timestamp,
}

impl StartEvents {
    /// Validates the event and publishes it, unless an earlier request with the same key did.
    ///
    /// # Errors
    /// [`HttpProblem`]. [`ProblemKind::Unavailable`](crate::contract::http::ProblemKind::Unavailable) means that the event may have been published.
    pub(super) async fn accept(
        &self,
        request: StartRequest,
        log: &mut RequestLog,
    ) -> Result<AcceptedBody, HttpProblem> {
        let StartRequest { client, head, body, deadline } = request;
        let StartHead { media_type, key, headers } = head;
        let fingerprint =
            Sha256::new().chain_update(media_type).chain_update([0]).chain_update(&body).finalize().into();
        let at = self.clock.now();
        let message = Message {
            body,
            content_type: Some(media_type.to_owned()),
            headers,
            published_at: Some(at),
            ..Message::default()
        };
        let key = key.as_ref().map(|key| key.reveal().as_str());
        let (session, id, cloud_event, trace) = {
            let start = StartMessage::open(&message);
            let cloud_event = start.cloud_event_id();
            let id = event_id(&client.name, key, cloud_event, &message.body);
            let session = start.session(&self.rules, at);
            (session, id, cloud_event.is_some(), start.identity.trace.clone())
        };
        let trace = trace.unwrap_or_else(|| TraceContext::begin(&self.random));
        let mut span = self.tracer.serve("POST", "/v1/sessions", &trace);
        log.trace_id = Some(span.context().trace_id());
        let result = match session {
            Ok(session) => {
                log.event_id = Some(id);
                span.set("instant_connect.event_id", id.to_string());
                let is_named = key.is_some() || cloud_event;
                let remembered_until = self.remembered_until(&session, is_named);
                let event = ValidEvent { message, id, session, is_named, remembered_until };
                self.publish_once(event, &client, fingerprint, span.context(), deadline).await
            }
            Err(refusal) => Err(HttpProblem::from(refusal)),
        };
        show(&mut span, &result);
        result
    }

    async fn publish_once(
        &self,
        event: ValidEvent,
        client: &Client,
        fingerprint: [u8; 32],
        within: &TraceContext,
        deadline: Instant,
    ) -> Result<AcceptedBody, HttpProblem> {
        let accepted = AcceptedBody {
            status: "accepted",
            event_id: event.id.to_string(),
            session_id: event.session.session_id.reveal().clone(),
            replayed: false,
        };
        let lease = match self.claim(event.id, fingerprint, deadline).await? {
            ClaimedKey::Mine(lease) => lease,
            ClaimedKey::Accepted => return Ok(AcceptedBody { replayed: true, ..accepted }),
        };
        let (event, is_first) = match lease.as_ref().and_then(first_time) {
            Some(at) => (self.first_sent(event, at)?, false),
            None => (event, true),
        };
        // Each guest and each expert gets a message. The people of a repeat were counted with the first request.
        let people = event.session.guests.len().max(event.session.experts.len());
        let people = if is_first { people } else { 0 };
        let room = self.room(event.message.body.len())?;
        client.count_people(people).map_err(problem::rate_limited)?;
        match self.publish_noted(event, lease, room, within, deadline).await {
            Ok(()) => Ok(accepted),
            Err(NotPublished::Noted(problem)) => Err(problem),
            Err(NotPublished::Unnoted(problem)) => {
                client.uncount_people(people);
                Err(problem)
            }
        }
    }

    /// The event as a request sent it before at the time `at`, without a confirm. With another time, the stage would process it as a
    /// new event once it has forgotten the first.
    ///
    /// # Errors
    /// The session has ended. That also refuses a new session of the same people without a key: its event would have the first one's id.
    fn first_sent(&self, mut event: ValidEvent, at: Timestamp) -> Result<ValidEvent, HttpProblem> {
        event.message.published_at = Some(at);
        let session = StartMessage::open(&event.message).session(&self.rules, self.clock.now())?;
        let remembered_until = self.remembered_until(&session, event.is_named);
        Ok(ValidEvent { session, remembered_until, ..event })
    }

    /// A request without a name of its own is a repeat only as long as the stage would see one: later, the same body is a
    /// new session of the same people.
    fn remembered_until(&self, session: &Session, is_named: bool) -> Timestamp {
        let after = |from: Timestamp, span| from.saturating_add(span).unwrap_or(Timestamp::MAX);
        let longest = after(self.clock.now(), KEPT);
        if is_named { longest } else { longest.min(after(session.expires_at.timestamp(), self.margin)) }
    }
}

/// The id of a request's event: the same for every repeat, so that the stage recognises repeats even if the ingress does
/// not. A client chooses among its own ids only. The three kinds of ids do not overlap.
fn event_id(client: &str, key: Option<&str>, cloud_event: Option<&str>, body: &[u8]) -> Uuid {
    match (key, cloud_event.filter(|id| !id.is_empty())) {
        (Some(key), _) => ids::hash(format!("ingress/{ORGANISATION}/{client}/{key}").as_bytes()),
        (None, Some(id)) => ids::hash(format!("ingress-event/{ORGANISATION}/{client}/{id}").as_bytes()),
        (None, None) => ids::hash(&[format!("ingress-body/{ORGANISATION}/").as_bytes(), body].concat()),
    }
}

fn show(span: &mut DeliverySpan, result: &Result<AcceptedBody, HttpProblem>) {
    let status = result.as_ref().map_or_else(|problem| problem.kind.status(), |_| 202);
    span.set("http.response.status_code", i64::from(status));
    if let Err(problem) = result {
        span.set("instant_connect.problem", problem.kind.as_str());
        if status >= 500 {
            span.fail(problem.kind.as_str(), problem.kind.title());
        }
    }
}

#[cfg(test)]
mod tests;
