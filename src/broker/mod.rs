//! RabbitMQ: takes deliveries, has a stage decide, publishes what the outcome names, settles.
//!
//! - [`connection`]: one connection, with time limits; lapin's own recovery stays off
//! - `handshake`: how a connection comes about, and what is there if it is no broker; `stream`: what lapin reads from
//! - `sieve`: leaves out properties that lapin can't read, where no message may end the connection
//! - [`reconnect`]: how tries follow each other, and when a missing connection is said
//! - [`greeting`]: what a broker says of itself
//! - [`topology`]: exchanges, queues and bindings
//! - [`publisher`]: the one task that publishes, many confirms outstanding
//! - [`consumer`]: takes deliveries for a stage, a permit each
//! - [`settle`]: carries an outcome out, in one place
//! - [`tries`]: counts the workers that died over a message
//! - `budget`: the bytes that work in progress may take
//! - `working`: one delivery at a time for each effect
//! - `delivery_log`: says what became of a delivery
//! - [`watchdog`]: sees a consumer that has fallen silent
//! - [`properties`]: message properties, and the headers that this program sets
//! - [`headers`]: the headers of others: which a copy carries, which are believed
//!
//! Deliveries and publishes use different connections: a broker that is short of memory or disk blocks publishing
//! connections whole, acknowledgements too. Each stage has its own connection for its deliveries: a message that lapin can't
//! read ends a connection, and must not count against the other stage's.

mod budget;
pub mod connection;
pub mod consumer;
mod delivery_log;
pub mod greeting;
mod handshake;
pub mod headers;
pub mod properties;
pub mod publisher;
pub mod reconnect;
pub mod settle;
mod sieve;
pub mod source;
mod stream;
pub mod topology;
pub mod tries;
pub mod watchdog;
mod working;

pub(crate) use sieve::is_unreadable;
