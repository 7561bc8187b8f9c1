//! The broker's part in a receipt.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::unavailable;
use crate::{
    broker::{
        properties,
        publisher::{Publication, PublishError},
    },
    contract::{
        outgoing::{Outgoing, short_correlation},
        receipt::{GuestReceipt, RECEIPT_TYPE, SentLink, route},
        time::WireTime,
        trace::TraceContext,
    },
    ingress::{outlet::Outlet, problem::HttpProblem},
    telemetry::traces::Tracer,
    webex_connect::receipt::ReceivedReceipt,
};

/// Time after which Webex Connect may repeat a receipt. It has a schedule of its own.
pub(super) const RETRY_LATER: Duration = Duration::from_secs(5);
/// Time that stays for the response.
const RESERVE: Duration = Duration::from_millis(500);

/// Publishes `message` through `outlet` and waits for the confirm.
///
/// # Errors
/// There is no confirm.
pub(super) async fn publish(
    tracer: &Tracer,
    outlet: &Outlet,
    message: &Outgoing,
    at: Timestamp,
    within: &TraceContext,
    deadline: Instant,
) -> Result<(), HttpProblem> {
    let full = "too many receipts wait for the broker's confirm";
    let room = outlet.room(message.body.reveal().len(), full).map_err(unavailable)?;
    let id = message.message_id.to_string();
    let mut span = tracer.publish(&outlet.exchange, message.route.routing_key, Some(&id), within);
    let publication = Publication {
        exchange: outlet.exchange.clone(),
        routing_key: message.route.routing_key.to_owned(),
        properties: properties::outgoing(message, span.context(), at),
        body: Arc::from(message.body.reveal().as_slice()),
    };
    let Err(error) = outlet.publish(publication, room, deadline - RESERVE).await else {
        return Ok(());
    };
    span.fail(error.as_str(), &error.to_string());
    Err(unavailable(match error {
        PublishError::Unroutable => "the broker has no queue for the message",
        PublishError::Nacked => "the broker refused the message (is a queue full?)",
        PublishError::Unknown => "the broker did not confirm the message in time",
        PublishError::Ended => "the ingress is stopping",
    }))
}

/// The message about `receipt`, with what the ledger keeps of the guest link.
pub(super) fn message(receipt: &ReceivedReceipt, about: Option<&SentLink>, at: Timestamp) -> Outgoing {
    let message_id = receipt.message.to_string();
    let correlation_id = about.and_then(|about| about.correlation_id.clone());
    let event_id = about.map_or(message_id.as_str(), |about| &about.event_id);
    let short = short_correlation(correlation_id.as_ref().map(|id| id.reveal().as_str()), event_id);
    let body = GuestReceipt {
        event_id: about.map(|about| about.event_id.clone()),
        session_id: about.map(|about| about.session_id.clone()),
        message_id: message_id.clone(),
        channel: receipt.channel,
        state: receipt.state,
        is_final: receipt.state.is_final(),
        cause: receipt.failure.map(|(cause, _)| cause),
        may_pass: receipt.failure.map(|(_, may_pass)| may_pass),
        code: receipt.code.map(|code| code.to_string()),
        at: receipt.at.map(|at| at.to_string()),
        parts: receipt.parts,
        carrier: receipt.carrier.clone(),
        correlation_id: correlation_id.clone(),
        attributes: about.and_then(|about| about.attributes.clone()),
    };
    Outgoing {
        route: route(receipt.channel),
        kind: RECEIPT_TYPE,
        message_id: receipt.id,
        correlation_id: short,
        // Serialization cannot fail, because the body is text and numbers only.
        body: serde_json::to_vec(&body).unwrap_or_default().into(),
        deadline: WireTime::floor(at),
    }
}
