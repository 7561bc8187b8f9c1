//! `WhatsApp` messages (`POST /resources/v1/messaging`, "Send message v1" in Webex Connect's developer reference).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::contract::{people::PhoneNumber, private::Private, time::WireTime};

/// Path of the API.
pub(crate) const PATH: &str = "/resources/v1/messaging";

/// The request to send an approved template to one number.
#[derive(Debug, Serialize)]
pub(crate) struct WhatsappRequest<'a> {
    deliverychannel: &'static str,
    appid: &'a str,
    destination: [Destination; 1],
    correlationid: &'a str,
    expiry: WireTime,
    message: TemplateMessage<'a>,
}

#[derive(Debug, Serialize)]
struct Destination {
    waid: [Private<String>; 1],
}

#[derive(Debug, Serialize)]
struct TemplateMessage<'a> {
    template: &'a str,
    parameters: BTreeMap<&'a str, Parameter>,
}

/// The value of a parameter of a template.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Parameter {
    /// Words in the template's text.
    Text(Private<String>),
    /// The end of the button's URL. Meta approves its beginning with the template.
    Button {
        /// Always `url`.
        #[serde(rename = "type")]
        kind: &'static str,
        /// The part after the beginning.
        payload: Private<String>,
    },
}

impl Parameter {
    /// The end of the URL of the template's button.
    #[must_use]
    pub(crate) const fn button(payload: Private<String>) -> Self {
        Self::Button { kind: "url", payload }
    }
}

/// A template and its parameters.
#[derive(Debug)]
pub(crate) struct Template<'a> {
    /// Webex Connect's id of the template.
    pub(crate) id: &'a str,
    /// The value of each parameter.
    pub(crate) parameters: BTreeMap<&'a str, Parameter>,
}

impl<'a> WhatsappRequest<'a> {
    /// A message of the app `app_id` with `template`, which receipts name by `correlation_id`. It is worthless after `expiry`.
    #[must_use]
    pub(crate) fn new(
        app_id: &'a str,
        to: &PhoneNumber,
        template: Template<'a>,
        correlation_id: &'a str,
        expiry: WireTime,
    ) -> Self {
        let Template { id, parameters } = template;
        let number = to.reveal();
        Self {
            deliverychannel: "whatsapp",
            appid: app_id,
            destination: [Destination {
                waid: [Private::new(number.strip_prefix('+').unwrap_or(number).to_owned())],
            }],
            correlationid: correlation_id,
            expiry,
            message: TemplateMessage { template: id, parameters },
        }
    }
}
