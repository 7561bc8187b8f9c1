//! The Helm chart: what it renders, refuses and derives, with both Helms that the tests know, against the schemas of others and
//! against the program itself; and the other files that an installation or a release is made of: compose.yaml, workflows.
//! `make chart` runs these tests alone; they need no cluster.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test fails by panicking, and its output is for a person"
)]

mod compose;
mod dashboard;
mod derived;
mod helm;
mod refused;
mod rendered;
mod rules;
mod runbook;
mod security;
mod settings;
mod sources;
mod topology;
mod versions;
mod workflows;
