//! What a stage needs of a channel.

use std::{future::Future, time::Duration};

use uuid::Uuid;

use crate::{
    contract::{link::GuestLink, people::Channel, stage::StageDef, trace::TraceContext},
    outcome::Death,
    upstream::UpstreamError,
    webex_connect::client::AcceptedMessage,
};

/// Sends guest links on one channel.
pub trait GuestSender: Send + Sync + 'static {
    /// The stage's entry in the table.
    const DEF: &'static StageDef;
    /// The channel of the stage's messages.
    const CHANNEL: Channel;

    /// True if the API has another key than at the last call.
    fn has_new_token(&self) -> bool;

    /// Checks that the API responds, with a request that cannot send a message.
    fn try_api(&self) -> impl Future<Output = Result<(), UpstreamError>> + Send;

    /// Sends `link` within `left`. Receipts name the message by `id`.
    fn send(
        &self,
        link: &GuestLink,
        id: &Uuid,
        trace: &TraceContext,
        left: Duration,
    ) -> impl Future<Output = Result<AcceptedMessage, SendError>> + Send;
}

/// A message that was not sent.
#[derive(Debug)]
pub enum SendError {
    /// The link cannot be sent on this channel.
    Unsendable(Death),
    /// The call failed.
    Failed(UpstreamError),
}
