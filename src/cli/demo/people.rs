//! What each person receives.

use instant_connect_sandbox::{ConnectHandle, Handle, ReceiptWebhook, RecordedMessage, Text};
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use url::Url;
use uuid::Uuid;

use super::{HUB_SECRET, PAUSE, soon, start_session};
use crate::{
    cli::{CommandError, say},
    config::Loaded,
    worker::ListeningIngress,
};

/// The people of the demo, their devices, and the flow.
pub(super) struct People {
    pub(super) webex: Handle,
    pub(super) connect: ConnectHandle,
    /// The ingress, once it listens.
    pub(super) ingress: Option<oneshot::Receiver<ListeningIngress>>,
    pub(super) receipts: mpsc::Receiver<Value>,
}

impl People {
    /// Starts one session and waits until each person has received a message, and each message to a guest its last receipt.
    pub(super) async fn show(&mut self, loaded: &Loaded, keep: bool) -> Result<(), CommandError> {
        let ingress = self.flow().await?;
        let session = format!("visit-{}", &Uuid::new_v4().to_string()[..8]);
        let accepted = start_session(loaded, &ingress, &session).await?;
        say(&format!(
            "flow      POST {}v1/sessions: 202, event {}, session {session}: two guests, an expert, a room",
            ingress,
            accepted["eventId"].as_str().unwrap_or_default()
        ))?;
        self.messages().await?;
        self.receipts().await?;
        if keep {
            say("still running; open the page, or start further sessions with the same ICW_AMQP__URL and:")?;
            say(&format!(
                "          instant-connect-worker emit --set topology.prefix={} --guest sms:+14155550123:Ben --expert expert@example.com",
                loaded.config.topology.prefix.as_str()
            ))?;
            say("stop with Ctrl-C")?;
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    /// The URL of the ingress, which accepts events. Webex Connect posts its receipts there.
    async fn flow(&mut self) -> Result<Url, CommandError> {
        let failed = |why: &str| CommandError::Failed(format!("the ingress did not start: {why}"));
        let Some(ingress) = self.ingress.take() else { return Err(failed("it was started before")) };
        let ListeningIngress { address, publishing } =
            soon("the start of the ingress", ingress).await?.map_err(|_| failed("the worker ended"))?;
        let connected = async {
            while !publishing.connection.is_up() {
                sleep(PAUSE).await;
            }
        };
        soon("the connection to the broker", connected).await?;
        let url: Url = format!("http://{address}/").parse().map_err(|_| failed("its address is unusable"))?;
        let webhook = url.join("v1/receipts/default").map_err(|_| failed("its address is unusable"))?;
        let webhook = ReceiptWebhook { secret: Some(HUB_SECRET.into()), ..ReceiptWebhook::new(webhook) };
        let saved = soon("saving the webhook", self.connect.save_webhook(webhook)).await?;
        saved.map_err(|result| failed(&format!("the webhook for receipts was not accepted: {result:?}")))?;
        Ok(url)
    }

    async fn messages(&self) -> Result<(), CommandError> {
        let all = self.webex.until(|sandbox| {
            let counts = sandbox.counts();
            counts.texts >= 2 && counts.messages >= 1
        });
        if let Err(late) = soon("the messages to all people", all).await {
            let counts = self.webex.counts();
            return Err(CommandError::Failed(format!(
                "{late}: {} of 2 texts and {} of 1 Webex messages arrived, after {} calls of Instant Connect",
                counts.texts, counts.messages, counts.calls
            )));
        }
        for text in self.webex.texts() {
            say(&guest_received(&text))?;
        }
        for message in self.webex.messages() {
            say(&expert_received(&message))?;
        }
        for call in self.webex.calls() {
            for device in &call.devices {
                say(&format!("{:<9} {device} added to meeting {} (sip-no-knock)", "Device", call.sub))?;
            }
        }
        Ok(())
    }

    /// Shows receipts until both guests have their messages.
    async fn receipts(&mut self) -> Result<(), CommandError> {
        let (mut sms, mut whatsapp) = (false, false);
        while !(sms && whatsapp) {
            let receipt = soon("the receipts", self.receipts.recv()).await?;
            let Some(receipt) = receipt else {
                return Err(CommandError::Failed("the connection for receipts was lost".to_owned()));
            };
            let text = |name: &str| receipt[name].as_str().unwrap_or_default();
            let (channel, state) = (text("channel"), text("state"));
            say(&format!("{:<9} {}: {state}", "Receipt", name_of(channel)))?;
            sms |= channel == "sms" && state == "delivered";
            whatsapp |= channel == "whatsapp" && state == "read";
        }
        Ok(())
    }
}

fn name_of(channel: &str) -> &'static str {
    if channel == "whatsapp" { "WhatsApp" } else { "SMS" }
}

fn guest_received(text: &Text) -> String {
    let words = text.body.as_deref().unwrap_or_default();
    let button = text.button.as_ref().map(|label| format!(" [{label}] {}", text.url)).unwrap_or_default();
    format!("{:<9} to {}: \"{words}\"{button}", name_of(&text.channel), text.to)
}

fn expert_received(message: &RecordedMessage) -> String {
    let card = message.attachments.first().map(|attachment| &attachment["content"]);
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let headline = text(card.and_then(|card| card.pointer("/body/0/text")));
    let button = text(card.and_then(|card| card.pointer("/actions/0/title")));
    let url = text(card.and_then(|card| card.pointer("/actions/0/url")));
    format!(
        "{:<9} to {}: \"{headline}\" [{button}] {url}",
        "Webex",
        message.to_person_email.as_deref().unwrap_or_default()
    )
}
