//! `POST /resources/v1/messaging`: WhatsApp.

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
    limits::{DESTINATIONS_MAX, code},
    records::{RecordedSend, SentContent},
    refused::{ConnectRefusal, check_correlation_id, parse},
    sms::is_number,
    state::ConnectHandle,
    templates::FilledTemplate,
};
use crate::faults::Endpoint;

/// The request body. Unknown fields are ignored.
#[derive(Deserialize)]
struct PostedWhatsApp {
    deliverychannel: Option<String>,
    appid: Option<String>,
    #[serde(default)]
    destination: Vec<WhatsAppRecipients>,
    correlationid: Option<String>,
    message: Option<WhatsAppContent>,
    expiry: Option<String>,
    #[serde(rename = "callbackData")]
    callback_data: Option<String>,
}

#[derive(Deserialize)]
struct WhatsAppRecipients {
    #[serde(default)]
    waid: Vec<String>,
}

#[derive(Deserialize)]
struct WhatsAppContent {
    template: Option<String>,
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// What the check of a request found.
struct CheckedWhatsApp {
    template: String,
    filled: FilledTemplate,
    expiry: Option<Timestamp>,
}

pub(super) async fn post(
    State(handle): State<ConnectHandle>,
    Extension(accepted): Extension<AcceptedRequest>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let posted =
        parse(body).and_then(|posted: PostedWhatsApp| posted.check(&handle).map(|found| (posted, found)));
    let (posted, checked) = match posted {
        Ok(checked) => checked,
        Err(refusal) => return handle.refuse(Endpoint::WhatsApp, &refusal),
    };
    let transid = Uuid::new_v4().to_string();
    let answer = json!({"response": [{
        "code": code::QUEUED,
        "description": "Queued",
        "transid": transid,
        "correlationid": posted.correlationid,
    }]});
    handle.accept(posted.sends(checked, &transid, &accepted));
    Json(answer).into_response()
}

impl PostedWhatsApp {
    fn check(&self, handle: &ConnectHandle) -> Result<CheckedWhatsApp, ConnectRefusal> {
        match self.deliverychannel.as_deref() {
            None => return Err(ConnectRefusal::missing("deliverychannel")),
            Some("whatsapp") => {}
            Some(_) => return Err(ConnectRefusal::invalid("deliverychannel", "whatsapp")),
        }
        handle.check_app_id(self.appid.as_deref())?;
        let numbers = self.destination.iter().flat_map(|to| &to.waid);
        match numbers.clone().count() {
            0 => return Err(ConnectRefusal::missing("destination.waid")),
            1..=DESTINATIONS_MAX => {}
            _ => {
                return Err(ConnectRefusal::new(
                    code::TOO_MANY_DESTINATIONS,
                    "destination: at most 1000 numbers",
                ));
            }
        }
        if numbers.clone().any(|number| !is_number(number)) {
            return Err(ConnectRefusal::new(code::ADDRESS, "destination.waid: expected digits without +"));
        }
        check_correlation_id(self.correlationid.as_deref())?;
        let message = self.message.as_ref().ok_or_else(|| ConnectRefusal::missing("message"))?;
        let template = message.template.clone().ok_or_else(|| ConnectRefusal::missing("message.template"))?;
        let filled = handle.fill(&template, &message.parameters)?;
        let expiry = check_expiry(self.expiry.as_deref(), code::MESSAGE_EXPIRED)?;
        Ok(CheckedWhatsApp { template, filled, expiry })
    }

    fn sends(self, checked: CheckedWhatsApp, transid: &str, accepted: &AcceptedRequest) -> Vec<RecordedSend> {
        let at = Timestamp::now();
        let parameters = self.message.map(|message| message.parameters).unwrap_or_default();
        let (label, url) = checked.filled.button.unzip();
        let content = SentContent::Template {
            template: checked.template,
            parameters,
            body: checked.filled.body,
            button: label,
        };
        let numbers = self.destination.into_iter().flat_map(|to| to.waid);
        numbers
            .map(|address| RecordedSend {
                at,
                endpoint: Endpoint::WhatsApp,
                id: transid.to_owned(),
                correlation_id: self.correlationid.clone(),
                address,
                from: None,
                content: content.clone(),
                url: url.clone(),
                validity_s: None,
                expiry: checked.expiry,
                callback_data: self.callback_data.clone(),
                requested_receipts: None,
                credential: accepted.credential,
                fault: accepted.fault.clone(),
            })
            .collect()
    }
}

/// Checks the v1 field `expiry`, a time in UTC. `past` is the code for a time in the past.
pub(super) fn check_expiry(text: Option<&str>, past: u32) -> Result<Option<Timestamp>, ConnectRefusal> {
    let Some(text) = text else { return Ok(None) };
    let at: Timestamp = text.parse().map_err(|_| ConnectRefusal::invalid("expiry", "a time in UTC"))?;
    if at <= Timestamp::now() {
        return Err(ConnectRefusal::new(past, "expiry: the time is past"));
    }
    Ok(Some(at))
}
