//! Reads the declared topology and the user's permissions from a broker without changing anything. Operations that would
//! change something carry an invalid argument, which RabbitMQ must refuse after it has checked the permission. The reply
//! code of the refusal tells the two apart: 403 is a missing permission, any other code means that it is granted. The
//! broker's log shows these refusals.

use std::time::Duration;

use lapin::{
    BasicProperties, Channel,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::time::sleep;
use uuid::Uuid;

use crate::broker::{
    connection::{BrokerError, Connected, within},
    properties::short,
    topology::{Depth, Exchange, Queue, declare_exchange, declare_queue, inequivalent},
};

/// Interval between checks for a blocked connection.
const BLOCKED_INTERVAL: Duration = Duration::from_millis(50);

/// State of an exchange or a queue on the broker.
#[derive(Debug)]
pub(super) enum ProbeResult {
    /// It exists as declared here; with the depth of a queue.
    Same(Option<Depth>),
    /// It exists with another declaration: the argument, if the broker names one, and the broker's message.
    Differs(Option<String>, String),
    /// It exists, but the user lacks the configure permission to compare it: the broker's message.
    Hidden(String),
    /// The user may not check its existence: the broker's message. That needs the configure permission in RabbitMQ 4.2.6
    /// and 4.3.0, and any permission on it in other versions.
    Refused(String),
    /// It does not exist, and the user may declare it.
    Missing,
    /// It does not exist, and the user may not declare it: the broker's message.
    Forbidden(String),
}

/// Result of a permission probe.
#[derive(Debug)]
pub(super) enum Right {
    Given,
    /// Permission denied: the broker's message.
    Refused(String),
    /// The broker blocks publishers because it is short of memory or disk.
    Blocked,
}

/// Probes over one connection, with `limit` for each reply.
#[derive(Debug)]
pub(super) struct Probe<'a> {
    connection: &'a Connected,
    limit: Duration,
}

impl<'a> Probe<'a> {
    #[must_use]
    pub(super) const fn new(connection: &'a Connected, limit: Duration) -> Self {
        Self { connection, limit }
    }

    /// Reads the state of `exchange`.
    ///
    /// # Errors
    /// [`BrokerError`] if the broker does not reply.
    pub(super) async fn exchange(&self, exchange: &Exchange) -> Result<ProbeResult, BrokerError> {
        let declare = async |passive| {
            declare_exchange(&self.channel().await?, exchange, passive, self.limit).await.map(|()| None)
        };
        match declare(true).await {
            Ok(_) => compared(declare(false).await, None),
            Err(error) if error.reply_code() == Some(404) => missing(self.try_exchange(exchange).await),
            Err(error) => not_compared(error),
        }
    }

    /// Reads the state of `queue`.
    ///
    /// # Errors
    /// [`BrokerError`] if the broker does not reply.
    pub(super) async fn queue(&self, queue: &Queue) -> Result<ProbeResult, BrokerError> {
        let declare =
            async |passive| declare_queue(&self.channel().await?, queue, passive, self.limit).await.map(Some);
        match declare(true).await {
            Ok(depth) => compared(declare(false).await, depth),
            Err(error) if error.reply_code() == Some(404) => missing(self.try_queue(queue).await),
            Err(error) => not_compared(error),
        }
    }

    /// The depth of the queue `name`; `None` if it does not exist.
    ///
    /// # Errors
    /// [`BrokerError`] if the broker does not reply, or does not let the user look.
    pub(super) async fn depth(&self, name: &str) -> Result<Option<Depth>, BrokerError> {
        let queue = Queue { name: name.to_owned(), arguments: Vec::new() };
        match declare_queue(&self.channel().await?, &queue, true, self.limit).await {
            Ok(depth) => Ok(Some(depth)),
            Err(error) if error.reply_code() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Declares the queue with a length that is not a number.
    async fn try_queue(&self, queue: &Queue) -> Result<(), BrokerError> {
        let channel = self.channel().await?;
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(short(&queue.name), options, invalid("x-max-length"));
        within("declare queue", self.limit, &channel, declared).await.map(drop)
    }

    /// Declares the exchange with an alternate exchange that is not a name.
    async fn try_exchange(&self, exchange: &Exchange) -> Result<(), BrokerError> {
        let channel = self.channel().await?;
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let (kind, arguments) = (lapin::ExchangeKind::Topic, invalid("alternate-exchange"));
        let declared = channel.exchange_declare(short(&exchange.name), kind, options, arguments);
        within("declare exchange", self.limit, &channel, declared).await
    }

    /// Probes the permission to consume from `queue`, which need not exist: consumes with a priority that is not a number.
    ///
    /// # Errors
    /// [`BrokerError`] if the broker does not reply.
    pub(super) async fn consume(&self, queue: &str) -> Result<Right, BrokerError> {
        let channel = self.channel().await?;
        let consumed = channel.basic_consume(
            short(queue),
            short(""),
            BasicConsumeOptions::default(),
            invalid("x-priority"),
        );
        right(within("consume", self.limit, &channel, consumed).await.map(drop))
    }

    /// Probes the permission to publish to `exchange`, which need not exist (empty: the default exchange): publishes a
    /// message whose expiration is not a number, with an unused routing key.
    ///
    /// # Errors
    /// [`BrokerError`] if the broker does not reply.
    pub(super) async fn publish(&self, exchange: &str) -> Result<Right, BrokerError> {
        tokio::select! {
            result = self.try_publish(exchange) => match right(result)? {
                Right::Given if self.connection.status().blocked() => Ok(Right::Blocked),
                right => Ok(right),
            },
            () = self.blocked() => Ok(Right::Blocked),
        }
    }

    async fn try_publish(&self, exchange: &str) -> Result<(), BrokerError> {
        let channel = self.channel().await?;
        let confirm = channel.confirm_select(ConfirmSelectOptions::default());
        within("confirm", self.limit, &channel, confirm).await?;
        let published = async {
            let properties = BasicProperties::default().with_expiration("never".into());
            let options = BasicPublishOptions::default();
            let key = short(&format!("check.{}", Uuid::new_v4()));
            channel.basic_publish(short(exchange), key, options, b"", properties).await?.await.map(drop)
        };
        within("publish", self.limit, &channel, published).await
    }

    async fn blocked(&self) {
        while !self.connection.status().blocked() {
            sleep(BLOCKED_INTERVAL).await;
        }
    }

    /// Probes the permission to bind `queue` to `exchange`: removes a binding that does not exist, which is not an error.
    ///
    /// # Errors
    /// [`BrokerError`] if the broker does not reply.
    pub(super) async fn bind(&self, queue: &str, exchange: &str) -> Result<Right, BrokerError> {
        let channel = self.channel().await?;
        let key = short(&format!("check.{}", Uuid::new_v4()));
        let unbound = channel.queue_unbind(short(queue), short(exchange), key, FieldTable::default());
        right(within("unbind queue", self.limit, &channel, unbound).await)
    }

    /// Opens a channel for one probe, because a refusal closes it.
    async fn channel(&self) -> Result<Channel, BrokerError> {
        within("open channel", self.limit, self.connection, self.connection.create_channel()).await
    }
}

/// `argument` with a value of the wrong type.
fn invalid(argument: &'static str) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert(argument.into(), AMQPValue::Boolean(true));
    arguments
}

fn compared(
    declared: Result<Option<Depth>, BrokerError>,
    depth: Option<Depth>,
) -> Result<ProbeResult, BrokerError> {
    match declared {
        Ok(now) => Ok(ProbeResult::Same(now.or(depth))),
        Err(error) => match error.reply_code() {
            Some(403) => Ok(ProbeResult::Hidden(error.to_string())),
            _ => not_compared(error),
        },
    }
}

fn not_compared(error: BrokerError) -> Result<ProbeResult, BrokerError> {
    let message = error.to_string();
    match error.reply_code() {
        Some(403) => Ok(ProbeResult::Refused(message)),
        Some(405 | 406) => Ok(ProbeResult::Differs(inequivalent(&message).map(str::to_owned), message)),
        _ => Err(error),
    }
}

fn missing(declared: Result<(), BrokerError>) -> Result<ProbeResult, BrokerError> {
    Ok(match right(declared)? {
        Right::Refused(message) => ProbeResult::Forbidden(message),
        Right::Given | Right::Blocked => ProbeResult::Missing,
    })
}

/// A refusal for any other reason comes after the permission check.
fn right(answer: Result<(), BrokerError>) -> Result<Right, BrokerError> {
    match answer {
        Ok(()) => Ok(Right::Given),
        Err(error) => match error.reply_code() {
            Some(403) => Ok(Right::Refused(error.to_string())),
            Some(404 | 406) => Ok(Right::Given),
            _ => Err(error),
        },
    }
}
