//! Finds out what is declared on a broker and what its user may do, and changes nothing there: whatever would change
//! something is asked for in a way that RabbitMQ must refuse, and it looks at the permission first. So the code of its refusal
//! tells: 403 is a right that is missing, any other one is there. The broker's log shows these refusals.

use std::time::Duration;

use lapin::{
    BasicProperties, Channel, Connection,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::time::sleep;
use uuid::Uuid;

use crate::broker::{
    connection::{BrokerError, within},
    properties::short,
    topology::{Depth, Exchange, Queue, declare_exchange, declare_queue, inequivalent},
};

/// How often it is looked whether the broker blocks.
const LOOK: Duration = Duration::from_millis(50);

/// What there is of an exchange or a queue.
#[derive(Debug)]
pub(super) enum ProbeResult {
    /// It is as it is declared here. What a queue holds.
    Same(Option<Depth>),
    /// It is there, otherwise: the argument, where the broker names one, and its words.
    Differs(Option<String>, String),
    /// It is there. The user may not compare it, as that needs the right to configure: the broker's words.
    Hidden(String),
    /// The user may not even look, which needs the right to configure in RabbitMQ 4.2.6 and 4.3.0, and in others any right
    /// to it: the broker's words.
    Refused(String),
    /// It is not there, and the user may declare it.
    Missing,
    /// It is not there, and the user may not declare it: the broker's words.
    Forbidden(String),
}

/// Whether something is permitted.
#[derive(Debug)]
pub(super) enum Right {
    /// It is.
    Given,
    /// It is not: the broker's words.
    Refused(String),
    /// The broker takes nothing from those who publish: it is short of memory or disk.
    Blocked,
}

/// Asks over one connection, `limit` for each answer.
#[derive(Debug)]
pub(super) struct Probe<'a> {
    connection: &'a Connection,
    limit: Duration,
}

impl<'a> Probe<'a> {
    /// Asks over `connection`.
    #[must_use]
    pub(super) const fn new(connection: &'a Connection, limit: Duration) -> Self {
        Self { connection, limit }
    }

    /// What there is of `exchange`.
    ///
    /// # Errors
    /// [`BrokerError`] where there is no answer.
    pub(super) async fn exchange(&self, exchange: &Exchange) -> Result<ProbeResult, BrokerError> {
        let declare = async |passive| {
            declare_exchange(&self.channel().await?, exchange, passive, self.limit).await.map(|()| None)
        };
        match declare(true).await {
            Ok(_) => seen(declare(false).await, None),
            Err(error) if error.reply_code() == Some(404) => missing(self.try_exchange(exchange).await),
            Err(error) => unseen(error),
        }
    }

    /// What there is of `queue`.
    ///
    /// # Errors
    /// [`BrokerError`] where there is no answer.
    pub(super) async fn queue(&self, queue: &Queue) -> Result<ProbeResult, BrokerError> {
        let declare =
            async |passive| declare_queue(&self.channel().await?, queue, passive, self.limit).await.map(Some);
        match declare(true).await {
            Ok(depth) => seen(declare(false).await, depth),
            Err(error) if error.reply_code() == Some(404) => missing(self.try_queue(queue).await),
            Err(error) => unseen(error),
        }
    }

    /// Declares the queue with a length that is no number.
    async fn try_queue(&self, queue: &Queue) -> Result<(), BrokerError> {
        let channel = self.channel().await?;
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(short(&queue.name), options, wrong("x-max-length"));
        within("declare queue", self.limit, &channel, declared).await.map(drop)
    }

    /// Declares the exchange with an alternate one that is no name.
    async fn try_exchange(&self, exchange: &Exchange) -> Result<(), BrokerError> {
        let channel = self.channel().await?;
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let (kind, wrong) = (lapin::ExchangeKind::Topic, wrong("alternate-exchange"));
        let declared = channel.exchange_declare(short(&exchange.name), kind, options, wrong);
        within("declare exchange", self.limit, &channel, declared).await
    }

    /// Whether the user may take from `queue`, whether or not it is there: consumes with a priority that is no number.
    ///
    /// # Errors
    /// [`BrokerError`] where there is no answer.
    pub(super) async fn take(&self, queue: &str) -> Result<Right, BrokerError> {
        let channel = self.channel().await?;
        let consumed = channel.basic_consume(
            short(queue),
            short(""),
            BasicConsumeOptions::default(),
            wrong("x-priority"),
        );
        right(within("consume", self.limit, &channel, consumed).await.map(drop))
    }

    /// Whether the user may publish to `exchange` (empty: to queues by their names), whether or not it is there: publishes a
    /// message whose expiration is no number, for a key that nobody has.
    ///
    /// # Errors
    /// [`BrokerError`] where there is no answer.
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
            sleep(LOOK).await;
        }
    }

    /// Whether the user may bind `queue` to `exchange`: takes away a binding that nobody made, which is no error.
    ///
    /// # Errors
    /// [`BrokerError`] where there is no answer.
    pub(super) async fn bind(&self, queue: &str, exchange: &str) -> Result<Right, BrokerError> {
        let channel = self.channel().await?;
        let key = short(&format!("check.{}", Uuid::new_v4()));
        let unbound = channel.queue_unbind(short(queue), short(exchange), key, FieldTable::default());
        right(within("unbind queue", self.limit, &channel, unbound).await)
    }

    /// One for each question: a refusal closes it.
    async fn channel(&self) -> Result<Channel, BrokerError> {
        within("open channel", self.limit, self.connection, self.connection.create_channel()).await
    }
}

fn wrong(argument: &'static str) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert(argument.into(), AMQPValue::Boolean(true));
    arguments
}

fn seen(
    declared: Result<Option<Depth>, BrokerError>,
    depth: Option<Depth>,
) -> Result<ProbeResult, BrokerError> {
    match declared {
        Ok(now) => Ok(ProbeResult::Same(now.or(depth))),
        Err(error) => match error.reply_code() {
            Some(403) => Ok(ProbeResult::Hidden(error.to_string())),
            _ => unseen(error),
        },
    }
}

fn unseen(error: BrokerError) -> Result<ProbeResult, BrokerError> {
    let said = error.to_string();
    match error.reply_code() {
        Some(403) => Ok(ProbeResult::Refused(said)),
        Some(405 | 406) => Ok(ProbeResult::Differs(inequivalent(&said).map(str::to_owned), said)),
        _ => Err(error),
    }
}

fn missing(declared: Result<(), BrokerError>) -> Result<ProbeResult, BrokerError> {
    Ok(match right(declared)? {
        Right::Refused(said) => ProbeResult::Forbidden(said),
        Right::Given | Right::Blocked => ProbeResult::Missing,
    })
}

/// A refusal for any other reason comes after the permission was looked at.
fn right(asked: Result<(), BrokerError>) -> Result<Right, BrokerError> {
    match asked {
        Ok(()) => Ok(Right::Given),
        Err(error) => match error.reply_code() {
            Some(403) => Ok(Right::Refused(error.to_string())),
            Some(404 | 406) => Ok(Right::Given),
            _ => Err(error),
        },
    }
}
