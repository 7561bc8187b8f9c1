//! Stage `host`: a host link becomes a Webex message to the expert.

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use tracing::info;

use super::Stage;
use crate::{
    contract::{
        BODY_BYTES_MAX,
        decode::{self, Invalid},
        ids::EventId,
        link::HostLink,
        message::Message,
        private::loggable_id,
        start_session::Identity,
        trace::TraceContext,
    },
    instant_connect::response::LinkRules,
    outcome::{Class, Death, Outcome},
    webex::Client,
};

/// Stage `host`.
#[derive(Debug)]
pub struct Host {
    client: Client,
    rules: LinkRules,
}

impl Host {
    /// The stage, with the client it calls and the rules for links.
    #[must_use]
    pub const fn new(client: Client, rules: LinkRules) -> Self {
        Self { client, rules }
    }
}

impl Stage for Host {
    const NAME: &'static str = "host";

    fn identify(&self, message: &Message) -> Identity {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Known {
            event_id: String,
        }

        let known = decode::from_json::<Known>(&message.body).map(|known| known.event_id).ok();
        let id = known.as_deref().or(message.message_id.as_deref());
        Identity { event_id: EventId::of(id, None, &message.body), trace: TraceContext::of(&message.headers) }
    }

    async fn handle(&self, message: &Message) -> Outcome {
        let link = match read(message, &self.rules) {
            Ok(link) => link,
            Err(invalid) => return Outcome::Dead(Death::new(Class::Invalid, invalid)),
        };
        let address = match link.expert.address() {
            Ok(address) => address,
            Err(invalid) => return Outcome::Dead(Death::new(Class::Invalid, invalid.within("expert"))),
        };
        let left = Duration::try_from(link.expires_at.timestamp().duration_since(Timestamp::now()))
            .unwrap_or_default();
        if left.is_zero() {
            return Outcome::Dead(Death::new(Class::Expired, "the session is over"));
        }
        let trace = TraceContext::of(&message.headers);
        match self.client.send(&address, &link, &trace, left).await {
            Ok(sent) => {
                info!(
                    event_id = %loggable_id(&link.event_id), trace_id = trace.trace_id(),
                    tracking_id = sent.tracking_id.as_deref().unwrap_or("none"), "the expert has the host link"
                );
                Outcome::Done(Vec::new())
            }
            Err(error) => error.into_outcome(link.expires_at),
        }
    }
}

fn read(message: &Message, rules: &LinkRules) -> Result<HostLink, Invalid> {
    // A host link echoes the event, so it is hardly larger than one.
    if message.body.len() > 2 * BODY_BYTES_MAX {
        return Err(Invalid::new("", format!("expected at most {} bytes", 2 * BODY_BYTES_MAX)));
    }
    let link: HostLink = decode::from_json(&message.body)?;
    // What an expert is told to open must be Instant Connect's, whoever put it into the queue.
    let url = link.address.reveal();
    let safe = url.bytes().all(|b| b.is_ascii_graphic() && !b"()<>[]\"\\`".contains(&b));
    if safe && rules.allow(url) {
        Ok(link)
    } else {
        Err(Invalid::new("url", "expected a link of Instant Connect"))
    }
}
