//! Turns "start video session" events from RabbitMQ into Webex Instant Connect links. Each guest's link goes to the
//! exchange from which SMS and WhatsApp senders work, the host's link to the expert as a Webex message.
//!
//! # Path of an event
//!
//! A delivery from the sessions queue becomes a [`contract::message::Message`]. Stage [`stages::LinkStage`] decodes it,
//! requests the links from [`instant_connect`], and returns [`outcome::Outcome::Done`] with a message for each
//! person. The runtime ([`broker`]) publishes these messages with confirms, and only then acknowledges. A host's link
//! returns as a delivery from the hosts queue. Stage [`stages::HostStage`] sends it to the expert through [`webex_messages`].
//!
//! # Layout
//!
//! - [`contract`]: messages on the wire, with types that hide personal data
//! - [`outcome`]: the closed set of outcomes and of classes of dead letters
//! - [`clock`]: the time of day
//! - [`random`]: random numbers
//! - [`endpoint`]: reasons why a peer was not reached, in our own words
//! - [`masking`]: the last protection of secrets, for texts that others wrote
//! - [`tls`]: trusted servers and the client certificate, the same for the broker, Redis and HTTPS
//! - [`state`]: the state that the watchdog and the health checks read; the metrics show it as gauges
//! - [`retry`]: retry decisions, a pure function
//! - [`breaker`]: stops consuming while an API is down or refuses our token
//! - [`values`]: value types of settings
//! - [`upstream`]: HTTP with limits, rotating tokens and classified failures
//! - [`instant_connect`], [`webex_connect`], [`webex_messages`]: the APIs
//! - [`ingress`]: one authenticated HTTP request becomes one confirmed start event
//! - [`stages`]: from message to outcome, with one outside effect each; they do not depend on AMQP
//! - [`ledger`]: completed effects, consulted before every outside effect
//! - [`broker`]: deliveries, publishing, settling; it does not depend on Webex
//! - [`dead`]: viewing, replaying and dropping dead letters
//! - [`worker`]: all stages, supervised
//! - [`check`]: findings for an operator before a worker runs
//! - [`config`]: layers over `config/default.toml`, which is the reference
//! - [`telemetry`]: logs, metrics and traces
//! - `fault`: points at which tests kill the worker; absent from releases
//! - [`admin`]: HTTP endpoints for operators and orchestrators
//! - [`cli`]: one file per subcommand
//! - `crates/sandbox`: faithful fakes of the APIs, for [`cli`] and only with the feature `sandbox`, which the production
//!   image does not have
//! - `tests/simulation`: the real worker above the ports, in a world with random faults that a seed determines
//!
//! # Arrows
//!
//! Each module and the modules that it imports. A test compares these lines with the code, and refuses circles.
//!
//! ```text
//! admin           → contract state telemetry
//! breaker         → clock outcome random retry state telemetry values
//! broker          → breaker clock contract endpoint fault ledger masking outcome random retry stages state telemetry tls values
//! check           → broker clock config contract endpoint ingress ledger masking random retry stages telemetry tls upstream webex_connect
//! cli             → broker check clock config contract dead endpoint ingress masking outcome random stages state telemetry tls upstream worker
//! config          → breaker broker clock contract endpoint ingress instant_connect ledger masking retry stages telemetry tls upstream values webex_connect
//! contract        → random
//! dead            → broker clock contract fault outcome stages
//! endpoint        → masking tls
//! ingress         → broker clock contract fault ledger masking random retry state telemetry tls values webex_connect
//! instant_connect → contract fault upstream
//! ledger          → clock endpoint fault random tls
//! outcome         → contract
//! retry           → outcome values
//! stages          → clock contract fault instant_connect ledger outcome random retry telemetry upstream webex_connect webex_messages
//! telemetry       → contract endpoint masking outcome state tls
//! upstream        → clock contract endpoint ledger masking outcome retry telemetry tls
//! values          → contract endpoint
//! webex_connect   → contract random upstream
//! webex_messages  → contract upstream
//! worker          → admin broker config contract fault ingress instant_connect ledger random stages state telemetry upstream webex_connect webex_messages
//! ```

// `make lint` builds the documentation with private items, so these links work.
#![allow(rustdoc::private_intra_doc_links, reason = "the documentation includes private items")]
// The worker's future contains all others, so the compiler needs many steps to prove that it is Send.
#![recursion_limit = "256"]

pub(crate) mod admin;
pub mod breaker;
pub mod broker;
pub(crate) mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod contract;
pub(crate) mod dead;
pub mod endpoint;
mod fault;
pub mod ingress;
pub mod instant_connect;
pub mod ledger;
pub(crate) mod masking;
pub mod outcome;
pub mod random;
pub mod retry;
pub mod stages;
pub mod state;
pub mod telemetry;
pub(crate) mod tls;
pub mod upstream;
pub mod values;
pub mod webex_connect;
pub mod webex_messages;
pub mod worker;
