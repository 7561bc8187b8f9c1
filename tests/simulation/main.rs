//! The worker in a simulated world that a seed determines. Everything above the ports is real: supervisor, watchdog,
//! publisher, topology, stages, retries, settling, breakers, clients and ledger. The broker, the APIs, the disk,
//! time and randomness are simulated. Messages are delivered, refused, lost and returned. Responses come late, wrong or
//! never. Connections break, consumers stall, queues are deleted, alarms block publishing. The worker dies at any of its
//! steps and starts again. With every step `checker` verifies that the contract still holds.
//!
//! `make breakages` shows that the simulation finds mistakes in these parts: it makes some, one at a time.
//!
//! Everything runs on one thread in paused time, so one seed is one history. `make simulate` runs many seeds. A seed
//! that fails prints its number and its last steps; `make simulate SEED=…` runs it again with all steps. Once
//! understood, the seed becomes a named test in `seeds`.
//!
//! From seed 1,000,000,000 on, the worker sends the guest links itself, and its ingress takes receipts and start requests.
//! `make simulate` runs such a history with every second of the others.
//!
//! Not simulated: lapin, HTTP and the ledger's file. Tests with live brokers, the sandbox and crashes cover these.
//!
//! # Layout
//! - `plan`, `events`: choices that a seed makes in advance
//! - `history`: one seed from its first event to its last; `seeds`: the tests
//! - `world`: time, randomness, journal, the worker's lives
//! - `broker`: queues, connections, confirms
//! - `network`: the APIs
//! - `client`: the clients of the ingress
//! - `storage`: the disk under the ledger; `time`: the time of day
//! - `worker`: the real parts, connected to the simulation
//! - `troubles`: faults that come and go
//! - `fairness`: events with faults of their own
//! - `checker`: the rules; `per_stage`: values for each stage of the table
//! - `one_consumer`: tests of one consumer by itself

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod broker;
mod checker;
mod client;
mod events;
mod fairness;
mod history;
mod network;
mod one_consumer;
mod per_stage;
mod plan;
mod seeds;
mod storage;
mod time;
mod troubles;
mod worker;
mod world;
