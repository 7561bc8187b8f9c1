//! Stage `whatsapp`: approved templates with the link in a button.

use std::{collections::BTreeMap, time::Duration};

use uuid::Uuid;

use super::{GuestSender, SendError};
use crate::{
    contract::{
        link::{GUESTS_WHATSAPP, GuestLink},
        people::Channel,
        private::Private,
        stage::{LatencyDef, StageDef, UpstreamDef},
        trace::TraceContext,
    },
    outcome::{Class, Death},
    upstream::UpstreamError,
    webex_connect::{
        ConnectClient, Locales,
        client::AcceptedMessage,
        texts::cleaned_name,
        whatsapp::{Parameter, Template, WhatsappRequest},
    },
};

/// Stage `whatsapp`, as data.
pub static WHATSAPP: StageDef = StageDef {
    name: "whatsapp",
    queue: &GUESTS_WHATSAPP,
    feeds: &[],
    routes: &[],
    upstream: UpstreamDef {
        label: "webex_connect_whatsapp",
        title: "Webex Connect (WhatsApp)",
        key: "connect-whatsapp",
    },
    latency: LatencyDef {
        name: "link_to_whatsapp_seconds",
        help: "Time from publishing a guest link (AMQP timestamp in whole seconds, which adds up to one second) until Webex \
               Connect has the guest's WhatsApp message, including delay queues.",
    },
};

/// The parameter with the end of the button's URL.
pub(crate) const LINK_PARAMETER: &str = "join";
/// The parameter with the guest's name.
pub(crate) const NAME_PARAMETER: &str = "name";
/// The value of [`NAME_PARAMETER`] for a guest without a name, because `WhatsApp` refuses an empty one.
const NO_NAME: &str = "-";

/// Sends `WhatsApp` messages.
#[derive(Debug)]
pub struct WhatsappSender {
    /// Calls Webex Connect.
    pub client: ConnectClient,
    /// The id of the app; empty if no message can be sent.
    pub app_id: String,
    /// The id of the template for each locale.
    pub templates: Option<Locales<String>>,
    /// The beginning of the button's URL in all templates.
    pub base_url: String,
    /// True if the templates have the parameter [`NAME_PARAMETER`].
    pub names_guests: bool,
}

impl WhatsappSender {
    fn template(&self, link: &GuestLink) -> Result<Template<'_>, Death> {
        let unsendable = |reason: &str| Death::new(Class::Invalid, reason);
        let Some(templates) = self.templates.as_ref().filter(|_| !self.app_id.is_empty()) else {
            return Err(unsendable("webex_connect.whatsapp_app_id is empty"));
        };
        let address = &link.address.0;
        let Some(short) = &address.short else {
            return Err(unsendable("a WhatsApp template needs a short link (instant_connect.short_urls)"));
        };
        if address.base_url.as_deref() != Some(&self.base_url) {
            return Err(unsendable("the link's baseUrl is not webex_connect.whatsapp_base_url"));
        }
        let mut parameters = BTreeMap::from([(LINK_PARAMETER, Parameter::button(short.clone()))]);
        if self.names_guests {
            let name = link.name.as_ref().and_then(|name| cleaned_name(name.reveal()));
            let name = name.unwrap_or_else(|| NO_NAME.to_owned());
            parameters.insert(NAME_PARAMETER, Parameter::Text(Private::new(name)));
        }
        Ok(Template { id: templates.find(link.locale.as_deref()), parameters })
    }
}

impl GuestSender for WhatsappSender {
    const DEF: &'static StageDef = &WHATSAPP;
    const CHANNEL: Channel = Channel::Whatsapp;

    fn has_new_token(&self) -> bool {
        self.client.has_new_token()
    }

    async fn try_api(&self) -> Result<(), UpstreamError> {
        self.client.try_key().await
    }

    async fn send(
        &self,
        link: &GuestLink,
        id: &Uuid,
        trace: &TraceContext,
        left: Duration,
    ) -> Result<AcceptedMessage, SendError> {
        let template = self.template(link).map_err(SendError::Unsendable)?;
        let id = id.to_string();
        let request = WhatsappRequest::new(&self.app_id, &link.to, template, &id, link.expires_at);
        self.client.send(&request, &link.to, trace, left).await.map_err(SendError::Failed)
    }
}
