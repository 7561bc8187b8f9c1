//! Simulates the senders of SMS: consumes guest links and delivers them to the sandbox's phones.

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

/// Consumes the guest links in `queue` until the connection fails, and shows each on the phones.
///
/// # Errors
/// [`BrokerError`] if the connection fails.
pub(super) async fn forward(connector: &Connector, queue: &str, sandbox: &Handle) -> Result<(), BrokerError> {
    let deliver = |body: &[u8]| {
        // Other messages are ignored: the sandbox writes no dead letters.
        if let Ok(link) = decode::from_json::<GuestLink>(body) {
            sandbox.deliver_text(text(&link));
        }
    };
    consume(connector, "phones", queue, deliver).await
}

/// Consumes `queue` on a connection named `name` until it fails, and passes each body to `each`.
///
/// # Errors
/// [`BrokerError`] if the connection fails.
pub(super) async fn consume(
    connector: &Connector,
    name: &str,
    queue: &str,
    each: impl Fn(&[u8]),
) -> Result<(), BrokerError> {
    let limit = connector.limits.timeout;
    let connection = connector.connect(name).await?;
    let channel = within("open channel", limit, &connection, connection.create_channel()).await?;
    within("set prefetch", limit, &connection, channel.basic_qos(32, BasicQosOptions::default())).await?;
    let consume = channel.basic_consume(
        short(queue),
        short(name),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut deliveries = within("consume", limit, &connection, consume).await?;
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery.map_err(|error| BrokerError::Lapin("consume", error))?;
        each(&delivery.data);
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
