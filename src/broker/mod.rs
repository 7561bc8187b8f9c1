//! RabbitMQ: consumes deliveries, runs a stage on each, publishes the messages of the outcome and settles the
//! delivery.
//!
//! - [`port`]: the broker as the loops below see it; `amqp`: with lapin
//! - [`connection`]: one connection with time limits; lapin's own recovery is off
//! - `handshake`: opens a connection and recognizes a peer that is not a broker; `stream`: the bytes that lapin reads
//! - `property_filter`: removes properties that lapin can't read, for commands whose connection must stay open
//! - `supervisor`: keeps a task connected, for consumers and the publisher
//! - [`reconnect`]: waits between connection attempts, and limits log lines about an outage
//! - [`greeting`]: product, version and capabilities of a broker
//! - [`topology`]: exchanges, queues and bindings
//! - [`publisher`]: the one task that publishes, with many confirms outstanding
//! - [`consumer`]: consumes deliveries for a stage, one permit for each
//! - [`settle`]: the one place that carries out an outcome
//! - [`tries`]: counts the workers that died while they processed a message
//! - `budget`: limits the bytes that work in progress may take
//! - `working`: allows one delivery at a time for each effect
//! - `delivery_log`: logs the settlement of a delivery
//! - [`watchdog`]: detects a stalled consumer
//! - [`properties`]: message properties, and the headers that this program sets
//! - [`headers`]: headers that others set: which of them a copy carries, and which are trusted
//!
//! Deliveries and publishing use separate connections. A broker that is short of memory or disk blocks a publishing
//! connection completely, including its acknowledgements. Each stage has its own connection for its deliveries. A
//! message that lapin can't read ends a connection, and must not add to the delivery counts of the other stage.

mod amqp;
mod budget;
pub mod connection;
pub mod consumer;
mod delivery_log;
pub mod greeting;
mod handshake;
pub mod headers;
pub mod port;
pub mod properties;
mod property_filter;
pub mod publisher;
pub mod reconnect;
pub mod settle;
mod stream;
pub(crate) mod supervisor;
pub mod topology;
pub mod tries;
pub mod watchdog;
mod working;

pub(crate) use property_filter::is_unreadable;
