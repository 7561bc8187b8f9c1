//! Simulates the senders of text messages: consumes guest links and delivers them to the sandbox's phones.

use futures_util::StreamExt;
use instant_connect_sandbox::{Handle, Text};
use jiff::Timestamp;
use lapin::{
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};

use crate::{
    broker::{
        connection::{BrokerError, Connector, within},
        properties::short,
    },
    contract::{decode, link::GuestLink},
};

/// Consumes `queue` until the connection fails, and passes each text to `each`.
///
/// # Errors
/// [`BrokerError`] if the connection fails.
pub(super) async fn forward(
    connector: &Connector,
    queue: &str,
    sandbox: &Handle,
    each: impl Fn(&Text),
) -> Result<(), BrokerError> {
    let limit = connector.limits.timeout;
    let connection = connector.connect("phones").await?;
    let channel = within("open channel", limit, &connection, connection.create_channel()).await?;
    within("set prefetch", limit, &connection, channel.basic_qos(32, BasicQosOptions::default())).await?;
    let consume = channel.basic_consume(
        short(queue),
        "phones".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut deliveries = within("consume", limit, &connection, consume).await?;
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery.map_err(|error| BrokerError::Lapin("consume", error))?;
        // Other messages are ignored: the sandbox writes no dead letters.
        if let Ok(link) = decode::from_json::<GuestLink>(&delivery.data) {
            let text = text(&link);
            each(&text);
            sandbox.deliver_text(text);
        }
        within("acknowledge", limit, &connection, delivery.ack(BasicAckOptions::default())).await?;
    }
    Ok(())
}

fn text(link: &GuestLink) -> Text {
    Text {
        channel: link.channel.as_str().to_owned(),
        to: link.to.reveal().to_owned(),
        name: link.name.as_ref().map(|name| name.reveal().clone()),
        url: link.address.reveal().to_owned(),
        body: None,
        button: None,
        at: Timestamp::now(),
    }
}
