//! Stage `host`: a host link becomes a Webex message to the expert.

use std::time::Duration;

use jiff::Timestamp;
use tracing::info;

use super::Stage;
use crate::{
    contract::{
        BODY_BYTES_MAX,
        decode::{self, Invalid},
        link::HostLink,
        message::Message,
        private::loggable_id,
        trace::TraceContext,
    },
    outcome::{Class, Death, Outcome},
    webex::Client,
};

/// Stage `host`.
#[derive(Debug)]
pub struct Host {
    client: Client,
}

impl Host {
    /// The stage, with the client it calls.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Stage for Host {
    const NAME: &'static str = "host";

    async fn handle(&self, message: &Message) -> Outcome {
        let link = match read(message) {
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

fn read(message: &Message) -> Result<HostLink, Invalid> {
    // A host link echoes the event, so it is hardly larger than one.
    if message.body.len() > 2 * BODY_BYTES_MAX {
        return Err(Invalid::new("", format!("expected at most {} bytes", 2 * BODY_BYTES_MAX)));
    }
    let link: HostLink = decode::from_json(&message.body)?;
    let url = link.address.reveal();
    let safe = url.bytes().all(|b| b.is_ascii_graphic() && !b"()<>[]\"\\`".contains(&b));
    if safe && (url.starts_with("https://") || url.starts_with("http://")) {
        Ok(link)
    } else {
        Err(Invalid::new("url", "expected a link"))
    }
}
