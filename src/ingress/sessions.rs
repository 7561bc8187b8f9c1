//! `POST /v1/sessions`: from a body to a confirmed start event.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tracing::warn;
use uuid::Uuid;

use super::{
    clients::Client,
    head::StartHead,
    problem::{self, HttpProblem, RETRY_SOON},
    service::RequestLog,
};
use crate::{
    broker::{
        properties,
        publisher::{Publication, PublishError, Publisher},
    },
    clock::Clock,
    contract::{
        http::{AcceptedBody, ProblemKind},
        ids,
        message::Message,
        start_session::{ROUTING_KEY, Refusal, Session, SessionRules, StartMessage},
        trace::TraceContext,
    },
    fault,
    ledger::{Claim, Lease, Ledger, LedgerError},
    state::PublishState,
    telemetry::{
        metrics::IngressMetrics,
        traces::{DeliverySpan, Tracer},
    },
};

/// The only organisation. Its name is part of event ids, so that ids stay the same when there are several.
const ORGANISATION: &str = "default";
/// Maximum wait for another request with the same key.
const CLAIM_MAX: Duration = Duration::from_secs(4);
/// Maximum wait for the broker's confirm.
const CONFIRM_MAX: Duration = Duration::from_secs(5);
/// Maximum wait for the ledger before the publish.
const NOTE_MAX: Duration = Duration::from_secs(2);
/// Maximum wait for the ledger after the confirm.
const RECORD_MAX: Duration = Duration::from_secs(2);
/// Time that stays for what follows the confirm.
const RESERVE: Duration = Duration::from_secs(1);
/// Time for which a request is remembered: from before its publish, and again from its confirm.
const KEPT: SignedDuration = SignedDuration::from_hours(24);

/// Problem of a ledger that does not answer within our own limit.
const NO_ANSWER: &str = "ledger: no answer in time";
/// Problem of a key with two bodies.
const REUSED: &str =
    "the Idempotency-Key (or the CloudEvent's source and id) was used before with another body";

/// Makes start events of requests.
#[derive(Clone, Debug)]
pub(crate) struct StartEvents {
    pub(crate) publisher: Publisher,
    /// The publisher's state. Nothing is given to a publisher that cannot publish now.
    pub(crate) publishing: PublishState,
    /// A permit for each byte of the bodies that may wait for their confirms.
    pub(crate) room: Arc<Semaphore>,
    /// The exchange of start events.
    pub(crate) exchange: String,
    pub(crate) ledger: Ledger,
    pub(crate) clock: Clock,
    /// Accept requests while the ledger is unavailable. The stage still recognises repeats by their ids.
    pub(crate) without_ledger: bool,
    pub(crate) rules: SessionRules,
    /// Time for which the stage remembers an event after its session.
    pub(crate) margin: SignedDuration,
    pub(crate) tracer: Tracer,
    pub(crate) metrics: IngressMetrics,
}

/// A request as its client sent it.
pub(super) struct StartRequest {
    pub(super) client: Arc<Client>,
    pub(super) head: StartHead,
    pub(super) body: Vec<u8>,
    /// Time of the answer at the latest.
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

/// The answer to a request whose event is not confirmed.
enum NotPublished {
    Perhaps(HttpProblem),
    Certainly(HttpProblem),
}

impl StartEvents {
    /// Validates the event and publishes it, unless an earlier request with the same key did.
    ///
    /// # Errors
    /// [`HttpProblem`]. [`ProblemKind::Unavailable`] means that the event may have been published.
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
            Some(at) => self.first_sent(event, at)?,
            None => (event, true),
        };
        // The people of a repeat were counted with the first request.
        let people = if is_first { event.session.guests.len() } else { 0 };
        let room = self.room(event.message.body.len())?;
        client.count_people(people).map_err(problem::rate_limited)?;
        match self.publish_noted(event, lease, room, within, deadline).await {
            Ok(()) => Ok(accepted),
            Err(NotPublished::Perhaps(problem)) => Err(problem),
            Err(NotPublished::Certainly(problem)) => {
                client.uncount_people(people);
                Err(problem)
            }
        }
    }

    /// The event as a request sent it before at the time `at`, without a confirm: with another time, the stage would process it as a
    /// new event once it has forgotten the first. A request without a name starts a new session if the first is over. Returns true
    /// if it does.
    fn first_sent(&self, mut event: ValidEvent, at: Timestamp) -> Result<(ValidEvent, bool), HttpProblem> {
        let now = event.message.published_at.replace(at);
        let session = StartMessage::open(&event.message).session(&self.rules, self.clock.now());
        match session {
            Ok(session) => {
                let remembered_until = self.remembered_until(&session, event.is_named);
                Ok((ValidEvent { session, remembered_until, ..event }, false))
            }
            Err(Refusal::Expired(_)) if !event.is_named => {
                event.message.published_at = now;
                Ok((event, true))
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Publishes the event. A note says before that it may be published, and a record afterwards that it is.
    async fn publish_noted(
        &self,
        event: ValidEvent,
        mut lease: Option<Lease>,
        room: OwnedSemaphorePermit,
        within: &TraceContext,
        deadline: Instant,
    ) -> Result<(), NotPublished> {
        let (remembered_until, is_repeat) =
            (event.remembered_until, lease.as_ref().is_some_and(|lease| lease.note().is_some()));
        if let Some(lease) = &mut lease {
            let noted = self.note(lease, event.message.published_at, remembered_until, deadline).await;
            noted.map_err(NotPublished::Certainly)?;
        }
        match self.publish(event, room, within, deadline).await {
            Ok(()) => {}
            // No queue has it, so the next request is the first one again.
            Err(error @ PublishError::Unroutable) if !is_repeat => {
                release(lease, deadline).await;
                return Err(NotPublished::Certainly(unconfirmed(error)));
            }
            Err(error) => return Err(NotPublished::Perhaps(unconfirmed(error))),
        }
        fault::point("ingress", "confirmed");
        record(lease, remembered_until, deadline).await;
        fault::point("ingress", "recorded");
        Ok(())
    }

    /// Claims the event's id. Without a lease, the event is published and not recorded.
    async fn claim(
        &self,
        id: Uuid,
        fingerprint: [u8; 32],
        deadline: Instant,
    ) -> Result<ClaimedKey, HttpProblem> {
        let until = (Instant::now() + CLAIM_MAX).min(deadline - RESERVE - RESERVE);
        let patience = until.saturating_duration_since(Instant::now());
        let key = format!("ingress/{id}");
        // The ledger has a little more time for its own answer than for waiting.
        let claim = timeout_at(until + RESERVE / 2, self.ledger.claim(&key, fingerprint, patience)).await;
        let error = match claim {
            Ok(Ok(Claim::Mine(lease))) => return Ok(ClaimedKey::Mine(Some(lease))),
            Ok(Ok(Claim::Recorded(_))) => return Ok(ClaimedKey::Accepted),
            Ok(Ok(Claim::Conflict)) => return Err(HttpProblem::new(ProblemKind::KeyReused, REUSED)),
            Ok(Ok(Claim::Busy)) => return Err(in_flight()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => NO_ANSWER.to_owned(),
        };
        self.ledger_failed(&error).map(|()| ClaimedKey::Mine(None))
    }

    /// Room for a body in the publisher's memory. A message that is published too late stays there after its request ends.
    fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, HttpProblem> {
        if !self.publishing.connection.is_up() {
            return Err(HttpProblem::unconfirmed("the broker is unavailable"));
        }
        if self.publishing.is_blocked() {
            return Err(HttpProblem::unconfirmed("the broker blocks publishing"));
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Arc::clone(&self.room)
            .try_acquire_many_owned(bytes)
            .map_err(|_| HttpProblem::unconfirmed("too many events wait for the broker's confirm"))
    }

    /// Notes that the event of the time `at` may be published, because a confirm may be late. The note keeps the body's fingerprint,
    /// so the key with another body is refused, and with the same body published again with the same id and time.
    async fn note(
        &self,
        lease: &mut Lease,
        at: Option<Timestamp>,
        remembered_until: Timestamp,
        deadline: Instant,
    ) -> Result<(), HttpProblem> {
        let until = (Instant::now() + NOTE_MAX).min(deadline - RESERVE - RESERVE);
        let note = at.unwrap_or_else(|| self.clock.now()).to_string();
        match timeout_at(until, lease.write_note(note.as_bytes(), remembered_until)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(LedgerError::Lost)) => Err(in_flight()),
            Ok(Err(error)) => self.ledger_failed(&error.to_string()),
            Err(_) => self.ledger_failed(NO_ANSWER),
        }
    }

    /// Decides about a request while the ledger is unavailable.
    fn ledger_failed(&self, error: &str) -> Result<(), HttpProblem> {
        if self.without_ledger {
            warn!(
                error,
                "ingress: ledger unavailable; accepting requests without deduplication (ledger.on_failure=continue)"
            );
            return Ok(());
        }
        warn!(error, "ingress: ledger unavailable; refusing requests (ledger.on_failure=wait)");
        Err(HttpProblem::unconfirmed("the ledger is unavailable"))
    }

    async fn publish(
        &self,
        event: ValidEvent,
        room: OwnedSemaphorePermit,
        within: &TraceContext,
        deadline: Instant,
    ) -> Result<(), PublishError> {
        let id = event.id.to_string();
        let mut span = self.tracer.publish(&self.exchange, ROUTING_KEY, Some(&id), within);
        let at = event.message.published_at.unwrap_or_else(|| self.clock.now());
        let properties = properties::received_event(&event.message, &id, span.context(), at);
        let publication = Publication {
            exchange: self.exchange.clone(),
            routing_key: ROUTING_KEY.to_owned(),
            properties,
            body: Arc::from(event.message.body),
        };
        let since = Instant::now();
        let until = (since + CONFIRM_MAX).min(deadline - RESERVE);
        let result = timeout_at(until, self.publisher.publish_in(publication, Some(room))).await;
        let error = match result {
            Ok(Ok(())) => {
                self.metrics.confirmed(since.elapsed());
                return Ok(());
            }
            Ok(Err(error)) => error,
            Err(_) => PublishError::Unknown,
        };
        span.fail(error.as_str(), &error.to_string());
        Err(error)
    }

    /// A request without a name of its own is a repeat only as long as the stage would see one: later, the same body is a
    /// new session of the same people.
    fn remembered_until(&self, session: &Session, is_named: bool) -> Timestamp {
        let after = |from: Timestamp, span| from.saturating_add(span).unwrap_or(Timestamp::MAX);
        let longest = after(self.clock.now(), KEPT);
        if is_named { longest } else { longest.min(after(session.expires_at.timestamp(), self.margin)) }
    }
}

/// The event's time in an earlier request, if the lease has its note.
fn first_time(lease: &Lease) -> Option<Timestamp> {
    str::from_utf8(lease.note()?).ok()?.parse().ok()
}

fn unconfirmed(error: PublishError) -> HttpProblem {
    HttpProblem::unconfirmed(match error {
        PublishError::Unroutable => "the broker has no queue for start events",
        PublishError::Nacked => "the broker refused the event (is a queue full?)",
        PublishError::Unknown => "the broker did not confirm the event in time",
        PublishError::Ended => "the ingress is stopping",
    })
}

/// Removes the note of an event that was not published. A failure changes no answer: the next request then has this one's time.
async fn release(lease: Option<Lease>, deadline: Instant) {
    if let Some(lease) = lease {
        _ = timeout_at((Instant::now() + RECORD_MAX).min(deadline - RESERVE / 4), lease.release()).await;
    }
}

fn in_flight() -> HttpProblem {
    let detail = "another request with the same key is in progress";
    HttpProblem::new(ProblemKind::InFlight, detail).retry_after(RETRY_SOON)
}

/// Records that the event is confirmed. A failure changes no answer: the stage recognises a repeat by the event's id.
async fn record(lease: Option<Lease>, remembered_until: Timestamp, deadline: Instant) {
    let Some(mut lease) = lease else { return };
    let until = (Instant::now() + RECORD_MAX).min(deadline - RESERVE / 4);
    let error = match timeout_at(until, lease.record(b"{}", remembered_until)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => NO_ANSWER.to_owned(),
    };
    warn!(
        error,
        "ingress: could not record an accepted request; a repeat is published again, with the same id"
    );
}

/// Answer of the ledger.
enum ClaimedKey {
    /// Publish, and record it.
    Mine(Option<Lease>),
    /// An earlier request was accepted.
    Accepted,
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
