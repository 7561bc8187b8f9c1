//! Chaos tests on real parts: everything that can break breaks under load, and a checker records the result of every
//! event.
//!
//! - [`event`]: the events of a run
//! - [`history`], [`verdict`]: the record of a run and its evaluation
//! - [`testbed`]: broker, relay, sandbox, workers, a publisher, and consumers of links and dead letters
//! - [`client`]: an AMQP client that survives faults
//! - [`faults`], [`cluster`]: one kind of fault at a time
//! - [`storm`]: all faults together, from a seed; `make chaos` makes it long

mod client;
mod cluster;
mod event;
mod faults;
mod history;
mod storm;
mod testbed;
mod verdict;
