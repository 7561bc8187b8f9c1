//! Turns "start video session" events from RabbitMQ into Webex Instant Connect links: each guest's link to the topic
//! from which SMS and WhatsApp senders work, the host's link to the expert as a Webex message.
//!
//! # The way of an event
//!
//! A delivery of the queue of sessions becomes a [`contract::message::Message`]; stage [`stages::Link`] reads it, has
//! [`instant_connect`] make the links, and says [`outcome::Outcome::Done`] with a message for each person. The runtime
//! ([`broker`]) publishes these with confirms, and only then acknowledges. A host's link comes back as a delivery of the
//! queue of hosts, and stage [`stages::Host`] gives it to the expert through [`webex`].
//!
//! # Layout
//!
//! - [`contract`]: what crosses the wire; types that hide what is personal
//! - [`outcome`]: the closed set of outcomes and of classes of dead letters
//! - [`clock`]: what time it is
//! - [`endpoint`]: why a peer was not reached, in words of our own
//! - [`masking`]: the last net under secrets, for texts that others made
//! - [`tls`]: which servers are trusted, and which certificate is shown; one way for the broker, Redis and HTTPS
//! - [`retry`]: when to try again, a pure function
//! - [`upstream`]: HTTP with limits, tokens that rotate, failures sorted
//! - [`instant_connect`], [`webex`]: the two APIs
//! - [`stages`]: message to outcome, one outside effect each; they know nothing of AMQP
//! - [`ledger`]: what was already done, consulted before every outside effect
//! - [`broker`]: deliveries, publishing, settling; it knows nothing of Webex
//! - [`dead`]: dead letters, looked at, replayed and dropped
//! - [`worker`]: both stages, supervised
//! - [`check`]: what an operator is told before a worker runs
//! - [`config`]: layers over `config/default.toml`, which is the reference
//! - [`telemetry`]: what operators see
//! - `fault`: points at which tests have the worker die; nothing in a release
//! - [`admin`]: what operators and orchestrators ask over HTTP
//! - [`sandbox`]: both APIs, faked faithfully
//! - [`cli`]: one file a subcommand
//! - `simulation`, in tests only: the worker in a world made of a seed, where everything goes wrong
//!
//! An arrow points one way: `cli` → `worker` → `stages`, `broker` → `contract`, `outcome`, `retry`; `broker` and `upstream` →
//! `telemetry` → `contract`.

// The worker's future holds all others: to see that it can be sent to another thread takes many steps.
#![recursion_limit = "256"]

pub(crate) mod admin;
pub(crate) mod breaker;
pub mod broker;
pub(crate) mod check;
pub mod cli;
pub(crate) mod clock;
pub mod config;
pub mod contract;
pub(crate) mod dead;
pub(crate) mod endpoint;
mod fault;
pub mod instant_connect;
pub mod ledger;
pub(crate) mod masking;
pub(crate) mod outcome;
pub mod retry;
pub mod sandbox;
#[cfg(test)]
mod simulation;
pub(crate) mod stages;
pub mod telemetry;
pub(crate) mod tls;
pub mod upstream;
pub mod webex;
pub(crate) mod worker;
