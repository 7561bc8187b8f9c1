//! An AMQP client that survives faults: it reconnects, and waits for no broker without a limit.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{event::Start, history::History};

/// Number of publishes with outstanding confirms.
const BATCH: usize = 50;
/// Time limit of a confirm, after which the event is published again on a new connection. If a queue's leader is cut off, RabbitMQ
/// before 4.2 may lose a message in a good channel, and confirms neither it nor what follows (rabbitmq-server#14589).
const CONFIRM_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn header(delivery: &Delivery, name: &str) -> String {
    let headers = delivery.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get(name)) {
        Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        other => format!("{other:?}"),
    }
}

/// The broker's response; `None` for an error or a timeout. Futures of lapin can stay pending forever if a broker
/// goes away at the wrong moment: after one restart, a consumer of dead letters never returned.
async fn within<T>(action: impl Future<Output = lapin::Result<T>>) -> Option<T> {
    timeout(Duration::from_secs(10), action).await.ok()?.ok()
}

/// The result of `action`, without a time limit; `None` if the channel closes first.
async fn unless_gone<T>(channel: &Channel, action: impl Future<Output = T>) -> Option<T> {
    let gone = async {
        while channel.status().connected() {
            sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        biased;
        done = action => Some(done),
        () = gone => None,
    }
}

/// Opens a connection and a channel to a random node.
pub(super) async fn open(urls: &[String]) -> Option<(Connection, Channel)> {
    let url = format!("{}?heartbeat=4", fastrand::choice(urls)?);
    let connection = within(Connection::connect(&url, ConnectionProperties::default())).await?;
    let channel = within(connection.create_channel()).await?;
    Some((connection, channel))
}

/// The numbers of ready messages and consumers of a queue; `None` if the broker can't tell.
pub(super) async fn depth(urls: &[String], queue: &str) -> Option<(u32, u32)> {
    let (connection, channel) = open(urls).await?;
    let options = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
    let declared = within(channel.queue_declare(queue.into(), options, FieldTable::default())).await;
    _ = within(connection.close(200, "done".into())).await;
    declared.map(|queue| (queue.message_count(), queue.consumer_count()))
}

/// Consumes a queue forever and reconnects after failures.
pub(super) async fn consume(urls: Vec<String>, queue: String, mut take: impl FnMut(&Delivery)) {
    loop {
        if let Some((connection, channel)) = open(&urls).await {
            _ = consume_once(&channel, &queue, &mut take).await;
            // Dropping the connection is not enough: lapin's pending futures keep it and its consumer open.
            _ = within(connection.close(200, "done".into())).await;
        }
        // The cause usually lasts for a while.
        sleep(Duration::from_millis(100)).await;
    }
}

async fn consume_once(channel: &Channel, queue: &str, take: &mut impl FnMut(&Delivery)) -> Option<()> {
    within(channel.basic_qos(200, BasicQosOptions::default())).await?;
    let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut deliveries = within(channel.basic_consume(queue.into(), "".into(), options, table)).await?;
    while let Some(Some(Ok(delivery))) = unless_gone(channel, deliveries.next()).await {
        take(&delivery);
        within(delivery.ack(BasicAckOptions::default())).await?;
    }
    Some(())
}

/// Publishes each event until the broker confirms it, as a well-built flow does.
pub(super) async fn publish(
    urls: Vec<String>,
    exchange: String,
    history: Arc<History>,
    events: u32,
    window: u32,
    mut allowed: watch::Receiver<u32>,
) {
    let mut queue: VecDeque<Start> = (0..events).map(Start).collect();
    while !queue.is_empty() {
        if let Some((connection, channel)) = open(&urls).await {
            _ = publish_until_broken(&channel, &exchange, &history, &mut queue, window, &mut allowed).await;
            _ = within(connection.close(200, "done".into())).await;
        }
        if !queue.is_empty() {
            // The cause usually lasts for a while.
            sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn publish_until_broken(
    channel: &Channel,
    exchange: &str,
    history: &History,
    queue: &mut VecDeque<Start>,
    window: u32,
    allowed: &mut watch::Receiver<u32>,
) -> Option<()> {
    within(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    while !queue.is_empty() {
        history.until_fewer_than(window).await;
        let next = queue.front().map_or(0, |start| start.0);
        // The wait fails only when the run is over.
        _ = allowed.wait_for(|allowed| *allowed > next).await;
        let batch: Vec<_> = queue.drain(..queue.len().min(BATCH)).collect();
        let mut confirms = Vec::with_capacity(batch.len());
        for start in &batch {
            history.published(*start);
            let body = start.body();
            let properties = BasicProperties::default()
                .with_message_id(start.id().into())
                .with_content_type("application/json".into())
                .with_delivery_mode(2);
            let publish =
                channel.basic_publish(exchange.into(), "session.start".into(), options, &body, properties);
            confirms.push((*start, publish.await));
        }
        let confirmed_by = Instant::now() + CONFIRM_LIMIT;
        let (mut good, mut bad, mut returned) = (Vec::new(), Vec::new(), HashSet::new());
        for (start, confirm) in confirms {
            let confirmed = match confirm {
                // A broker that blocks publishing confirms late.
                Ok(confirm) => {
                    let confirm = timeout_at(confirmed_by, confirm);
                    unless_gone(channel, confirm).await.and_then(Result::ok).and_then(Result::ok)
                }
                Err(_) => None,
            };
            match confirmed {
                Some(Confirmation::Ack(back)) => {
                    // The returned message in a confirm may be any message of the batch.
                    let id = back.and_then(|back| back.properties.message_id().clone());
                    returned.extend(id.map(|id| id.as_str().to_owned()));
                    good.push(start);
                }
                _ => bad.push(start),
            }
        }
        let broken = !bad.is_empty() || !returned.is_empty();
        for start in good {
            if returned.contains(&start.id()) {
                bad.push(start);
            } else {
                history.confirmed(start);
            }
        }
        bad.into_iter().rev().for_each(|start| queue.push_front(start));
        if broken {
            return None;
        }
    }
    Some(())
}
