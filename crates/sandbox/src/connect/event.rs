//! `POST /resources/v1/events/externalevent/`: custom events, which wake a flow.

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    response::{IntoResponse as _, Response},
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    guard::AcceptedRequest,
    limits::code,
    records::{RecordedSend, SentContent},
    refused::{ConnectRefusal, check_correlation_id, parse},
    state::ConnectHandle,
    whatsapp::check_expiry,
};
use crate::faults::{Endpoint, RefusalShape};

/// An event that a flow waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownEvent {
    /// Value of `evtid`.
    pub id: String,
    /// Names of the parameters that each event must have; otherwise it is refused with 7025.
    pub mandatory: Vec<String>,
}

/// The request body. Unknown fields are ignored.
#[derive(Deserialize)]
struct PostedEvents {
    #[serde(default)]
    events: Vec<PostedEvent>,
    expiry: Option<String>,
}

#[derive(Deserialize)]
struct PostedEvent {
    evtid: Option<String>,
    correlationid: Option<String>,
    #[serde(default)]
    parameters: Map<String, Value>,
}

pub(super) async fn post(
    State(handle): State<ConnectHandle>,
    Extension(accepted): Extension<AcceptedRequest>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let posted =
        parse(body).and_then(|posted: PostedEvents| posted.check(&handle).map(|expiry| (posted, expiry)));
    let (posted, expiry) = match posted {
        Ok(checked) => checked,
        Err(refusal) => return handle.refuse(Endpoint::Event, &refusal),
    };
    let sends: Vec<_> =
        posted.events.into_iter().map(|event| event.send(expiry, &handle, &accepted)).collect();
    let mut queued: Vec<Value> = sends
        .iter()
        .map(|send| {
            json!({
                "code": code::EVENT_QUEUED,
                "description": "Queued",
                "transid": send.id,
                "correlationid": send.correlation_id,
            })
        })
        .collect();
    handle.accept(sends);
    let one_object = queued.len() == 1 && handle.next_shape() == RefusalShape::Object;
    let response = if one_object { queued.pop().unwrap_or_default() } else { Value::Array(queued) };
    Json(json!({"response": response})).into_response()
}

impl PostedEvents {
    fn check(&self, handle: &ConnectHandle) -> Result<Option<Timestamp>, ConnectRefusal> {
        if self.events.is_empty() {
            return Err(ConnectRefusal::missing("events"));
        }
        for event in &self.events {
            let id = event.evtid.as_deref().filter(|id| !id.is_empty());
            let id = id.ok_or_else(|| ConnectRefusal::missing("events.evtid"))?;
            check_correlation_id(event.correlationid.as_deref())?;
            let mandatory = handle.known_event(id).map(|known| known.mandatory).unwrap_or_default();
            if let Some(name) = mandatory.iter().find(|name| !event.parameters.contains_key(*name)) {
                let text = format!("events.parameters.{name}: missing");
                return Err(ConnectRefusal::new(code::EVENT_PARAMETER_MISSING, text));
            }
        }
        check_expiry(self.expiry.as_deref(), code::EVENT_EXPIRED)
    }
}

impl PostedEvent {
    fn send(
        self,
        expiry: Option<Timestamp>,
        handle: &ConnectHandle,
        accepted: &AcceptedRequest,
    ) -> RecordedSend {
        let id = self.evtid.unwrap_or_default();
        RecordedSend {
            at: Timestamp::now(),
            endpoint: Endpoint::Event,
            id: Uuid::new_v4().to_string(),
            correlation_id: self.correlationid,
            address: String::new(),
            from: None,
            url: self.parameters.get("url").and_then(Value::as_str).map(str::to_owned),
            content: SentContent::Event {
                known: handle.known_event(&id).is_some(),
                event: id,
                parameters: self.parameters,
            },
            validity_s: None,
            expiry,
            callback_data: None,
            requested_receipts: None,
            credential: accepted.credential,
            fault: accepted.fault.clone(),
        }
    }
}
