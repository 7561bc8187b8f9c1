//! Stages `sms` and `whatsapp` with `webex_connect.mode = "event"`: a flow that waits for the link sends the message.

use std::{marker::PhantomData, time::Duration};

use uuid::Uuid;

use super::{GuestSender, SendError};
use crate::{
    contract::{link::GuestLink, people::Channel, stage::StageDef, trace::TraceContext},
    upstream::UpstreamError,
    webex_connect::{ConnectClient, client::AcceptedMessage, event::EventRequest},
};

/// Wakes flows instead of using the sender `S`, on its stage and channel.
#[derive(Debug)]
pub(crate) struct EventSender<S> {
    client: ConnectClient,
    /// The id of the custom event. It comes from the configuration only: a flow's author could otherwise start any flow.
    event_id: String,
    /// The attributes that events pass on.
    attributes: Vec<String>,
    place: PhantomData<fn() -> S>,
}

impl<S> EventSender<S> {
    /// Sends the event `event_id` by `client`, with the link and those of its attributes that `attributes` names.
    #[must_use]
    pub(crate) const fn new(client: ConnectClient, event_id: String, attributes: Vec<String>) -> Self {
        Self { client, event_id, attributes, place: PhantomData }
    }
}

impl<S: GuestSender> GuestSender for EventSender<S> {
    const DEF: &'static StageDef = S::DEF;
    const CHANNEL: Channel = S::CHANNEL;

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
        let id = id.to_string();
        let request = EventRequest::new(&self.event_id, link, &self.attributes, &id);
        self.client.send(&request, &link.to, trace, left).await.map_err(SendError::Failed)
    }
}
