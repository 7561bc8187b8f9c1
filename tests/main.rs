//! Tests of the promises with real parts.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and people read its output"
)]

mod chaos;
mod dead;
mod house;
mod ingress;
mod ledger;
mod operators;
mod promises;
mod random;
mod receipts;
mod sandbox;
mod send;
