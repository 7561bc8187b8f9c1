//! Makes the stages that send messages to guests from the configuration.

use super::{WorkerError, assembly::Parts};
use crate::{
    contract::stage::StageDef,
    stages::{self, EventSender, GuestSender, NAME_PARAMETER, SendStage, SmsSender, WhatsappSender},
    upstream::Upstream,
    webex_connect::{ConnectApi, ConnectClient, event, sms, whatsapp},
};

impl Parts<'_> {
    pub(super) fn sms_stage(&self) -> Result<SendStage<SmsSender>, WorkerError> {
        let sender = SmsSender {
            client: self.connect_client(&stages::SMS, sms::PATH, ConnectApi::Messages)?,
            from: self.loaded.config.webex_connect.sms_from.clone(),
            texts: self.loaded.texts()?,
            receipts: self.loaded.config.takes_receipts(),
        };
        Ok(SendStage::new(
            sender,
            self.loaded.config.send_rules(),
            self.deduplicator(&stages::SMS),
            self.metrics.receipts(),
            self.stop.clone(),
        ))
    }

    pub(super) fn whatsapp_stage(&self) -> Result<SendStage<WhatsappSender>, WorkerError> {
        let section = &self.loaded.config.webex_connect;
        let sender = WhatsappSender {
            client: self.connect_client(&stages::WHATSAPP, whatsapp::PATH, ConnectApi::Messages)?,
            app_id: section.whatsapp_app_id.clone(),
            templates: section.templates(),
            base_url: section.whatsapp_base_url.as_str().to_owned(),
            names_guests: section.whatsapp_parameters.iter().any(|name| name == NAME_PARAMETER),
        };
        Ok(SendStage::new(
            sender,
            self.loaded.config.send_rules(),
            self.deduplicator(&stages::WHATSAPP),
            self.metrics.receipts(),
            self.stop.clone(),
        ))
    }

    /// The stage of the sender `S`, which wakes flows in its place.
    pub(super) fn event_stage<S: GuestSender>(&self) -> Result<SendStage<EventSender<S>>, WorkerError> {
        let section = &self.loaded.config.webex_connect;
        let client = self.connect_client(S::DEF, event::PATH, ConnectApi::Event)?;
        let sender = EventSender::new(client, section.event_id.clone(), section.event_attributes.clone());
        Ok(SendStage::new(
            sender,
            self.loaded.config.send_rules(),
            self.deduplicator(S::DEF),
            self.metrics.receipts(),
            self.stop.clone(),
        ))
    }

    fn connect_client(
        &self,
        stage: &StageDef,
        path: &str,
        kind: ConnectApi,
    ) -> Result<ConnectClient, WorkerError> {
        let url = self.loaded.connect_url(path);
        let (token, credential) = self.loaded.connect_credential()?;
        let api = stage.upstream;
        let upstream = Upstream::new(
            api.title,
            &url,
            token,
            self.loaded.config.webex_connect.limits(),
            &self.loaded.network()?,
            self.metrics.upstream(api),
        )?;
        let upstream = self.shared(upstream, api.key).authenticated_by(credential);
        Ok(ConnectClient::new(upstream, url, kind))
    }
}
