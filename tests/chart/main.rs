//! The Helm chart: its rendered objects, refusals and derived values, with both Helm versions, checked against
//! third-party schemas and the program itself. Also the other files of an installation or release: compose.yaml and
//! the workflows. `make chart` runs only these tests; they need no cluster.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, and people read its output"
)]

mod compose;
mod dashboard;
mod derived;
mod helm;
mod ingress;
mod refused;
mod rendered;
mod rules;
mod security;
mod settings;
mod sources;
mod topology;
mod versions;
mod workflows;
