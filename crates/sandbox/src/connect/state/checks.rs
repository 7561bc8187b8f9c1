//! Checks of requests against the settings, and the form of refusals.

use std::sync::atomic::Ordering;

use axum::{http::HeaderMap, response::Response};
use serde_json::{Map, Value};

use super::ConnectHandle;
use crate::{
    connect::{
        credentials::{CredentialProblem, UsedCredential},
        event::KnownEvent,
        limits::code,
        refused::{ConnectRefusal, RefusalForm},
        sms,
        templates::FilledTemplate,
    },
    faults::{Endpoint, RefusalShape},
};

impl ConnectHandle {
    pub(in crate::connect) fn credential(
        &self,
        headers: &HeaderMap,
    ) -> Result<UsedCredential, CredentialProblem> {
        self.settings().credentials.check(headers)
    }

    pub(in crate::connect) fn forbids_wrong_key(&self) -> bool {
        self.settings().wrong_key_is_403
    }

    /// Form of the next `response` of a v1 API: as set, or in turn.
    pub(in crate::connect) fn next_shape(&self) -> RefusalShape {
        let turn = self.0.refusals.fetch_add(1, Ordering::Relaxed);
        let alternate = if turn.is_multiple_of(2) { RefusalShape::Object } else { RefusalShape::Array };
        self.settings().refusal_shape.unwrap_or(alternate)
    }

    pub(in crate::connect) fn refusal_form(&self, endpoint: Endpoint) -> RefusalForm {
        if endpoint == Endpoint::Sms {
            RefusalForm::of(endpoint, RefusalShape::Flat)
        } else {
            RefusalForm::of(endpoint, self.next_shape())
        }
    }

    pub(in crate::connect) fn refuse(&self, endpoint: Endpoint, refusal: &ConnectRefusal) -> Response {
        self.refusal_form(endpoint).response(refusal)
    }

    pub(in crate::connect) fn check_sender(&self, from: Option<&str>) -> Result<(), ConnectRefusal> {
        let from = from.filter(|from| !from.is_empty()).ok_or_else(|| ConnectRefusal::missing("from"))?;
        if !sms::is_sender(from) {
            return Err(ConnectRefusal::new(
                code::SENDER,
                "from: expected a number without +, a short code or a name",
            ));
        }
        let senders = &self.settings().senders;
        if senders.is_empty() || senders.iter().any(|known| known == from) {
            return Ok(());
        }
        Err(ConnectRefusal::new(code::SENDER, "from: not a sender of this service"))
    }

    pub(in crate::connect) fn check_app_id(&self, app_id: Option<&str>) -> Result<(), ConnectRefusal> {
        match app_id {
            None => Err(ConnectRefusal::missing("appid")),
            Some(app_id) if app_id == self.settings().app_id => Ok(()),
            Some(_) => Err(ConnectRefusal::new(code::APP_ID, "appid: unknown")),
        }
    }

    pub(in crate::connect) fn fill(
        &self,
        template: &str,
        parameters: &Map<String, Value>,
    ) -> Result<FilledTemplate, ConnectRefusal> {
        let known = self.settings().templates.iter().find(|known| known.id == template).cloned();
        let known =
            known.ok_or_else(|| ConnectRefusal::new(code::TEMPLATE_ID, "message.template: unknown"))?;
        known.fill(parameters, &self.0.links)
    }

    /// The event that a flow waits for; without configured events, any event.
    pub(in crate::connect) fn known_event(&self, id: &str) -> Option<KnownEvent> {
        let settings = self.settings();
        if settings.events.is_empty() {
            return Some(KnownEvent { id: id.to_owned(), mandatory: Vec::new() });
        }
        settings.events.iter().find(|event| event.id == id).cloned()
    }
}
