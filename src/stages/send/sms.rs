//! Stage `sms`: SMS.

use std::time::Duration;

use uuid::Uuid;

use super::{GuestSender, SendError};
use crate::{
    contract::{
        link::{GUESTS_SMS, GuestLink},
        people::Channel,
        private::Private,
        stage::{LatencyDef, StageDef, UpstreamDef},
        time::WireTime,
        trace::TraceContext,
    },
    outcome::{Class, Death},
    upstream::UpstreamError,
    webex_connect::{
        ConnectClient,
        client::AcceptedMessage,
        sms::SmsRequest,
        texts::{LinkValues, Texts},
    },
};

/// Stage `sms`, as data.
pub static SMS: StageDef = StageDef {
    name: "sms",
    queue: &GUESTS_SMS,
    feeds: &[],
    routes: &[],
    upstream: UpstreamDef { label: "webex_connect_sms", title: "Webex Connect (SMS)", key: "connect-sms" },
    latency: LatencyDef {
        name: "link_to_sms_seconds",
        help: "Time from publishing a guest link (AMQP timestamp in whole seconds, which adds up to one second) until Webex \
               Connect has the guest's SMS, including delay queues.",
    },
};

/// Sends SMS.
#[derive(Debug)]
pub struct SmsSender {
    /// Calls Webex Connect.
    pub client: ConnectClient,
    /// The sender that the guest sees; empty if no message can be sent.
    pub from: String,
    /// The texts of the messages.
    pub texts: Texts,
    /// Ask for receipts.
    pub receipts: bool,
}

impl GuestSender for SmsSender {
    const DEF: &'static StageDef = &SMS;
    const CHANNEL: Channel = Channel::Sms;

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
        let unsendable = |reason: &str| SendError::Unsendable(Death::new(Class::Invalid, reason));
        if self.from.is_empty() {
            return Err(unsendable("webex_connect.sms_from is empty"));
        }
        let values = LinkValues {
            name: link.name.as_ref().map(Private::reveal).map(String::as_str),
            url: link.address.reveal(),
            starts: link.not_before.map(WireTime::timestamp),
            ends: link.expires_at.timestamp(),
            zone: link.time_zone.as_deref(),
        };
        let text = self.texts.link(link.locale.as_deref(), &values);
        let text = text.map_err(|error| unsendable(&error.to_string()))?;
        let id = id.to_string();
        let request = SmsRequest::new(&self.from, &link.to, &text, &id, left.as_secs(), self.receipts);
        self.client.send(&request, &link.to, trace, left).await.map_err(SendError::Failed)
    }
}
