//! Chaos tests on real parts: everything that can break breaks under load, and a checker records the result of every
//! event.
//!
//! - [`event`]: the events of a run
//! - [`history`], [`messages`], [`verdict`]: the record of a run, its checks and its evaluation
//! - [`testbed`], [`slots`]: broker, relay, sandbox, workers, a publisher, and consumers of links and dead letters
//! - [`client`]: an AMQP client that survives faults
//! - [`faults`], [`cluster`]: one kind of fault at a time
//! - [`edges`]: a run over both edges: requests to the ingress, messages through Webex Connect
//! - [`storm`]: all faults together, from a seed; `make chaos` makes it long

mod client;
mod cluster;
mod edges;
mod event;
mod faults;
mod history;
mod messages;
mod slots;
mod storm;
mod testbed;
mod verdict;
