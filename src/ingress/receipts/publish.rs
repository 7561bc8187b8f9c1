//! The broker's part in a receipt.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Receipts, unavailable};
use crate::{
    broker::{
        properties,
        publisher::{Publication, PublishError},
    },
    contract::{
        outgoing::Outgoing,
        private::Private,
        receipt::{GuestReceipt, RECEIPT_TYPE, SentLink, route},
        time::WireTime,
        trace::TraceContext,
    },
    ingress::problem::HttpProblem,
    webex_connect::receipt::ReceivedReceipt,
};

/// Time after which Webex Connect may repeat a receipt. It has a schedule of its own.
pub(super) const RETRY_LATER: Duration = Duration::from_secs(5);
/// Time that stays for the answer.
const RESERVE: Duration = Duration::from_millis(500);
/// Longest AMQP short string, in bytes.
const SHORT_MAX: usize = 255;

impl Receipts {
    /// Publishes `receipt` and waits for the confirm.
    ///
    /// # Errors
    /// There is no confirm.
    pub(super) async fn publish(
        &self,
        receipt: &ReceivedReceipt,
        about: Option<&SentLink>,
        at: Timestamp,
        within: &TraceContext,
        deadline: Instant,
    ) -> Result<(), HttpProblem> {
        let message = message(receipt, about, at);
        let full = "too many receipts wait for the broker's confirm";
        let room = self.outlet.room(message.body.reveal().len(), full).map_err(unavailable)?;
        let id = message.message_id.to_string();
        let mut span =
            self.tracer.publish(&self.outlet.exchange, message.route.routing_key, Some(&id), within);
        let publication = Publication {
            exchange: self.outlet.exchange.clone(),
            routing_key: message.route.routing_key.to_owned(),
            properties: properties::outgoing(&message, span.context(), at),
            body: Arc::from(message.body.reveal().as_slice()),
        };
        let Err(error) = self.outlet.publish(publication, room, deadline - RESERVE).await else {
            return Ok(());
        };
        span.fail(error.as_str(), &error.to_string());
        Err(unavailable(match error {
            PublishError::Unroutable => "the broker has no queue for receipts",
            PublishError::Nacked => "the broker refused the receipt (is a queue full?)",
            PublishError::Unknown => "the broker did not confirm the receipt in time",
            PublishError::Ended => "the ingress is stopping",
        }))
    }
}

/// The message about `receipt`, with what the ledger keeps of the guest link.
fn message(receipt: &ReceivedReceipt, about: Option<&SentLink>, at: Timestamp) -> Outgoing {
    let correlation_id = about.and_then(|about| about.correlation_id.clone());
    let body = GuestReceipt {
        event_id: about.map(|about| about.event_id.clone()),
        session_id: about.map(|about| about.session_id.clone()),
        message_id: receipt.message.to_string(),
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
    let event_id =
        || about.map_or_else(|| receipt.message.to_string(), |about| about.event_id.clone()).into();
    Outgoing {
        route: route(receipt.channel),
        kind: RECEIPT_TYPE,
        message_id: receipt.id,
        correlation_id: correlation_id
            .filter(|id: &Private<String>| (1..=SHORT_MAX).contains(&id.reveal().len()))
            .unwrap_or_else(event_id),
        // Serialization cannot fail, because the body is text and numbers only.
        body: serde_json::to_vec(&body).unwrap_or_default().into(),
        deadline: WireTime::floor(at),
    }
}
